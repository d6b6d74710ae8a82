"""The page in a real browser: it opens from a file, loads nothing, and every text stays a text."""

import importlib.util
import json
import shutil

import pytest

from rrft_jax import command, workdir
from rrft_jax.evaluation import predictions
from rrft_jax.evaluation.results import Results
from rrft_jax.report import page
from rrft_jax.report.run import Run
from rrft_jax.study import page as study_page
from rrft_jax.study.figures import Figure, Line, Panel
from tests.evaluation.files import ours, tagged
from tests.report.files import HOSTILE, SIZES, STEPS, write_run

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--window-size=1280,900",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    """A Chromium that keeps what pages say on its console."""
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if not all(programs) or not importlib.util.find_spec("selenium"):
        pytest.skip("needs chromium, chromedriver and selenium; .ci/run installs them")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(programs[1]))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two runs with hostile completions, and pictures of odd sizes."""
    folder = tmp_path_factory.mktemp("runs")
    one = write_run(folder / "one", texts=[*HOSTILE.values()])
    return one, write_run(folder / "two", right=(1, 2, 2), texts=[*HOSTILE.values()])


@pytest.fixture
def opened(browser, folders, tmp_path):
    """`opened(number of runs)`: the browser with their page, which said nothing on its console."""

    def open_page(number=1):
        file = tmp_path / page.NAME
        page.write([Run.read(folder) for folder in folders[:number]], file)
        browser.get(file.as_uri())
        return browser

    yield open_page
    assert browser.get_log("browser") == []
    assert browser.title and "broken" not in browser.title


def texts(browser, css):
    """The texts of elements, once all plots are drawn: they wait for a frame."""
    browser.execute_async_script(
        "const [done] = arguments; requestAnimationFrame(() => requestAnimationFrame(done));"
    )
    return browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((one) => one.textContent)", css
    )


def choose(browser, section, label, words):
    """Choose the first option of a labelled choice that begins with some words."""
    browser.execute_script(
        """
        const [section, label, words] = arguments;
        const find = (all, test) => [...all].find(test) ?? (() => { throw Error(words); })();
        const choices = document.querySelectorAll(`#${section} label.choice`);
        const choice = find(choices, (one) => one.firstChild.textContent === label);
        const select = choice.querySelector("select");
        const option = find(select.options, (one) => one.textContent.startsWith(words));
        select.value = option.value;
        select.dispatchEvent(new Event("change"));
        """,
        section,
        label,
        words,
    )


def test_the_first_screen_tells_what_was_done_and_whether_it_worked(opened):
    browser = opened()
    assert texts(browser, "h1") == ["one: visual_counting"]
    (verdict,) = texts(browser, ".verdict")
    assert "After sft: no clear difference from start (+7.7 ± 7.4 points)" in verdict
    assert texts(browser, ".card-value") == ["7.7 %", "15.4 %", "23.1 %"]
    assert len(texts(browser, "#start .plot canvas")) == 1
    learnt, not_learnt = ["startwrong", "grporight"], ["startwrong", "grpowrong"]
    assert texts(browser, ".example h4") == learnt * 2 + not_learnt


def test_hostile_texts_are_texts(opened):
    browser = opened()
    assert len(browser.find_elements("css selector", "script")) == 2  # the content, the program
    assert not browser.find_elements("css selector", "main img:not(.pictures img), main script")
    said = texts(browser, "#samples .said")
    for name in ("script", "open", "comment", "image", "mark"):
        assert HOSTILE[name] in said, name
    assert "right U+202Eot tfelU+202C andU+200B U+FEFFnothing" in said
    assert "aU+0000bU+0007U+001B[31m" in said and "half U+D83D of one" in said
    assert "x" * 20_000 + " [... 80,000 more characters]" in said
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")


def test_pictures_of_odd_sizes_are_decoded_and_a_missing_one_is_a_text(opened, folders):
    (folders[0] / "pictures").rename(folders[0] / "moved")
    missing = opened()
    assert len(texts(missing, "#samples .missing")) == 4 + len(HOSTILE)
    (folders[0] / "moved").rename(folders[0] / "pictures")
    browser = opened()
    sizes = browser.execute_async_script(
        """
        const done = arguments[0];
        const images = [...document.querySelectorAll("#samples img")];
        for (const image of images) image.loading = "eager";
        Promise.all(images.map((image) => image.decode().then(() => image.naturalWidth)))
          .then(done);
        """
    )
    assert len(sizes) == 4 + len(HOSTILE) and sizes[:3] == [SIZES[0][0], SIZES[1][0], SIZES[2][0]]


def test_samples_are_filtered(opened):
    browser = opened()
    assert len(texts(browser, "#samples article")) == 4 + len(HOSTILE)
    for outcome, number in {
        "grpo is wrong": 1 + len(HOSTILE), "only start solves": 0, "only grpo solves": 2,
        "neither": 1 + len(HOSTILE), "grpo is cut off": 1,
    }.items():  # fmt: skip
        choose(browser, "samples", "samples", outcome)
        assert len(texts(browser, "#samples article")) == number, outcome
    choose(browser, "samples", "left", "sft")
    choose(browser, "samples", "samples", "only grpo solves (1)")
    assert texts(browser, "#samples h4") == ["sftwrong", "grporight"]


def test_groups_are_filtered_and_their_tokens_coloured(opened):
    browser = opened()
    assert len(texts(browser, "#groups article")) == 2
    choose(browser, "groups", "groups", "flat (1)")
    assert "step 1" in texts(browser, "#groups article")[0]
    choose(browser, "groups", "groups", "no right answer (1)")
    choose(browser, "groups", "groups", "not flat (1)")
    assert texts(browser, "#groups td:nth-child(2)") == ["+0.75", "−0.25", "−0.25", "−0.25"]
    assert not texts(browser, ".token")
    plain = texts(browser, "#groups .said")
    choose(browser, "groups", "colour of tokens", "ratio")
    assert texts(browser, "#groups .said") == plain
    heat = "return document.querySelector('.token').style.getPropertyValue('--heat')"
    assert browser.execute_script(heat) == "0.25"
    choose(browser, "groups", "colour of tokens", "log-probability")
    assert browser.execute_script(heat) == "0.08"


def test_a_reward_may_have_any_name(opened):
    browser = opened()
    head = texts(browser, "#groups article:first-child th")
    assert head == ["answer", "advantage", "accuracy", "format", "constructor"]
    cells = texts(browser, "#groups article:first-child td:last-child")
    assert cells == ["–", "1", "–", "–"]


@pytest.mark.parametrize("kind", ["without training", "without answers", "before its results"])
def test_a_run_that_has_less_opens(browser, tmp_path, kind):
    folder = write_run(tmp_path / "run")
    if kind == "before its results":
        (folder / "results.json").write_text("{}")
    if kind == "without answers":
        rewarded = {"rewards": {"boxes": 0.5, "reward": 0.5}, "answer": ""}
        for file in folder.rglob("predictions-*.jsonl"):
            rows = [json.loads(line) | rewarded for line in file.read_text().splitlines()]
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        results = json.loads((folder / "results.json").read_text())
        for row in results.values():
            row["id"] = predictions.entry(predictions.read(file)) | {"decoding": "greedy"}
        (folder / "results.json").write_text(json.dumps(results))
    if kind == "without training":
        shutil.rmtree(folder)
        config, _ = command.parse(["--config=configs/eval.py"])
        workdir.claim(config, folder, "weights")
        rows = [("a", tagged("1"), "1"), ("b", tagged("2"), "1")]
        file = ours(folder / "predictions-id.jsonl", rows)
        entry = predictions.entry(predictions.read(file))
        Results(folder, {}, "id").add("start", "id", entry | {"decoding": "greedy"})
    page.write([Run.read(folder)], folder / page.NAME)
    browser.get((folder / page.NAME).as_uri())
    assert (
        texts(browser, ".verdict")
        == {
            "without training": ["Now 50.0 ± 35.4 % right on id."],
            "without answers": ["Now 0.500 ± 0.000 reward on id."],
            "before its results": ["Nothing has been evaluated yet."],
        }[kind]
    ), browser.get_log("browser")
    assert browser.get_log("browser") == []


def test_curves_have_axes_of_steps_and_minutes_and_all_metrics(opened):
    browser = opened(2)
    names = texts(browser, "#curves figcaption")
    assert names == ["reward", "reward_accuracy", "loss"]
    assert len(texts(browser, "#curves canvas")) == 3
    legend = texts(browser, "#curves figure:first-child .u-label")
    assert legend == ["step", "one", "two"]
    choose(browser, "curves", "axis", "minutes")
    assert texts(browser, "#curves figure:first-child .u-label")[0] == "minutes"
    browser.execute_script("document.querySelector('#curves .tick input').click()")
    assert texts(browser, "#curves figcaption") == names[1:]
    choose(browser, "curves", "stage", "held out")
    assert texts(browser, "#curves figcaption") == ["accuracy, id"]


def test_two_runs_stand_side_by_side(opened):
    browser = opened(2)
    choose(browser, "samples", "samples", "only one: grpo solves (1)")
    assert texts(browser, "#samples h4") == ["one: grporight", "two: grpowrong"]
    rows = texts(browser, "#results h2 + .scroll td:first-child")
    assert rows == [f"{run}: {row}" for run in ("one", "two") for row in ("start", "sft", "grpo")]


def test_answers_and_samples_left_out_are_tables(opened):
    browser = opened()
    assert texts(browser, ".confusion .agrees")[0:3] == ["1", "1", "1"]
    assert "9 for 3 (1)" in " ".join(texts(browser, "#results p"))
    assert texts(browser, "#skipped tbody tr")[0] == "idpicture215"
    assert HOSTILE["image"] in texts(browser, "#skipped details td")


def test_a_page_has_no_address_and_a_policy_that_lets_only_its_own_parts_run(folders):
    text = page.page(page.content([Run.read(folder) for folder in folders]))
    head = text[: text.index("<style>")]
    assert "default-src 'none'; img-src data:; style-src 'sha256-" in head
    assert "unsafe" not in head and "<link" not in text and "<script src" not in text
    assert "Permission is hereby granted" in text  # the licence of the plots goes with them


def test_a_page_that_can_t_be_written_is_reported_once_and_stops_nothing(tmp_path, capsys):
    folder = write_run(tmp_path / "run")
    run = Run.read(folder)
    own = page.Page(folder, run.config, Results(folder, STEPS, "id"))
    own.refresh()
    whole = (folder / page.NAME).read_bytes()
    (folder / "predictions-id.jsonl").write_text("{")
    for _ in range(2):
        own.refresh()
    said = capsys.readouterr().err
    assert said.count("report.html could not be written: UserError") == said.count("\n") == 1
    assert (folder / page.NAME).read_bytes() == whole
    shutil.rmtree(folder)
    own.refresh()


def test_the_page_of_a_study_draws_its_figures_and_tables(browser, tmp_path):
    line = Line("ans_sft", [400, 1600], [10.0, 20.0], [9.0, 18.0], [11.0, 22.0])
    bars = Line("ans_sft", ["counting, id"], [20.0], [18.0], [22.0])
    panels = [Panel("id", "samples", [line], "log"), Panel("reward", "step", [line], "linear")]
    drawn = [Figure("a", "one", panels), Figure("b", "two", [Panel("%", "", [bars], "bars")])]
    table = "## counting\n\n| name | id |\n| --- | --: |\n| ans_sft | 20.0 ± 2.0 |\n\nA note."
    file = tmp_path / study_page.NAME
    study_page.write(drawn, table, file)
    browser.get(file.as_uri())
    assert texts(browser, "h2") == ["one", "two", "Tables"]
    assert len(texts(browser, ".plot canvas")) == 2
    cells = ["counting, id", "20.0", "ans_sft", "20.0 ± 2.0"]
    assert texts(browser, ".scroll tbody td") == cells
    assert texts(browser, "main p.note") == ["A note."]
    assert browser.get_log("browser") == []
