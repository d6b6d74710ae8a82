"""Files of every accepted shape become the same examples; what is wrong with others is named."""

import json
import pathlib

import pytest

from rrft_jax.data import BadSample, find_splits, open_image, read_examples
from rrft_jax.errors import UserError

ROW = {"id": 5, "image": "a.png", "problem": "How many?", "answer": "3", "cot": "One, two, three."}
TASK = "visual_counting"


def _write(path, rows=(ROW,)):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    else:
        path.write_text(json.dumps(list(rows)))
    return str(path)


def _touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return str(path)


@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
def test_a_file_serves_training_and_testing(tmp_path, name):
    path = _write(tmp_path / name, [ROW, {**ROW, "id": None}])
    assert find_splits(path, TASK) == {"train": (path,), "id": (path,)}
    first, second = read_examples(path, TASK, "train")
    assert (first.id, first.problem, first.answer, first.cot) == (
        "5", "How many?", "3", "One, two, three."
    )  # fmt: skip
    assert first.task == TASK
    assert second.id == "data-1"
    assert read_examples(path, TASK, "id") == [first, second]


def test_the_published_layout(tmp_path):
    train = _write(tmp_path / "train_jsons/A3-Visual-Counting-train-35k-cot.json")
    _write(tmp_path / "train_jsons/A1-Spatial-Transformation-train-60k-cot.json")
    test_id = _write(tmp_path / "test_jsons/Visual-Counting-id-test-1k.json")
    ood = _write(tmp_path / "test_jsons/Visual-Counting-ood-test-1k.json")
    left = _write(tmp_path / "test_jsons/Spatial-Transformation-ood-left-test-1k.json")
    assert find_splits(tmp_path, TASK) == {"train": (train,), "id": (test_id,), "ood": (ood,)}
    assert find_splits(tmp_path, "spatial_transformation")["ood-left"] == (left,)
    picture = _touch(tmp_path / "images/train_images/a.png")
    (example,) = read_examples(tmp_path, TASK, "train")
    assert example.images == (picture,)


def test_a_sample_file_serves_the_splits_that_have_no_file(tmp_path):
    sample = _write(tmp_path / "Visual-Counting-ood-sample.json")
    assert find_splits(tmp_path, TASK) == {"train": (sample,), "id": (sample,), "ood": (sample,)}
    train = _write(tmp_path / "Visual-Counting-train.jsonl")
    assert find_splits(tmp_path, TASK) == {"train": (train,), "id": (sample,), "ood": (sample,)}


def test_a_test_file_never_becomes_training_data(tmp_path):
    _write(tmp_path / "Visual-Counting-id-test-1k.json")
    assert list(find_splits(tmp_path, TASK)) == ["id"]
    with pytest.raises(UserError, match=r"no 'train' split.*id \(Visual-Counting-id-test-1k.json"):
        read_examples(tmp_path, TASK, "train")


def test_pictures_are_found_in_every_usual_place(tmp_path):
    path = tmp_path / "flat" / "data.json"
    _write(path, [{**ROW, "image": name} for name in ("a.png", "b.png", "c/d.png", "lost.png")])
    places = [
        _touch(tmp_path / "flat/a.png"),
        _touch(tmp_path / "flat/images/b.png"),
        _touch(tmp_path / "images/test_images/c/d.png"),
    ]
    examples = read_examples(path, TASK, "train")
    for example, place in zip(examples, places):
        assert (tmp_path / example.images[0]).samefile(place)
    assert examples[3].images[0].endswith("lost.png")  # the loader's business


def test_image_root_comes_first_and_alone(tmp_path):
    path = _write(tmp_path / "data.json")
    _touch(tmp_path / "a.png")
    (tmp_path / "root").mkdir()
    (example,) = read_examples(path, TASK, "train", str(tmp_path / "root"))
    assert example.images == (str(tmp_path / "root" / "a.png"),)
    with pytest.raises(UserError, match="data.image_root"):
        read_examples(path, TASK, "train", str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    "fields, names",
    [
        ({"image": "a.png"}, ["a.png"]),
        ({"image": ["a.png", "b.png"]}, ["a.png", "b.png"]),
        ({"images": [{"path": "a.png"}, {"path": "b.png"}]}, ["a.png", "b.png"]),
        ({"image": {"path": "a.png"}}, ["a.png"]),
        ({"image": ""}, []),
        ({"images": None}, []),
        ({"image": None, "images": []}, []),
        ({}, []),
    ],
)
def test_spellings_of_pictures(tmp_path, fields, names):
    path = _write(tmp_path / "data.json", [{"problem": "How many?", "answer": "1"} | fields])
    (example,) = read_examples(path, TASK, "train")
    assert [image.split("/")[-1] for image in example.images] == names


@pytest.mark.parametrize(
    "fields",
    [{"answer": "3"}, {"solution": "3"}, {"solution": " <answer> 3 </answer>"}, {"answer": 3}],
)
def test_spellings_of_answers(tmp_path, fields):
    path = _write(tmp_path / "data.json", [{"problem": "How many?"} | fields])
    assert read_examples(path, TASK, "train")[0].answer == "3"


def _chat(*texts, form="messages", system=None):
    """One row's chat in either form; user and assistant alternate."""
    speaker, said, names = {
        "messages": ("role", "content", ("user", "assistant")),
        "conversations": ("from", "value", ("human", "gpt")),
    }[form]
    turns = [{speaker: names[n % 2], said: text} for n, text in enumerate(texts)]
    return {form: [{speaker: "system", said: system}] * (system is not None) + turns}


@pytest.mark.parametrize("form", ["messages", "conversations"])
@pytest.mark.parametrize(
    "reply, cot, answer",
    [
        ("<think>One, two.</think><answer>2</answer>", "One, two.", "2"),
        (" <think>\nOne,\ntwo.\n</think>\n<answer>\n2\n</answer>\n", "One,\ntwo.", "2"),
        ("<think> </think><answer>2</answer>", None, "2"),
        ("<think>One, two.</think>\n\n2", "One, two.", "2"),
        ("<answer>2</answer>", None, "2"),
        ("It is 2 < 3.", None, "It is 2 < 3."),
    ],
)
def test_chats(tmp_path, form, reply, cot, answer):
    rows = [
        _chat("<image><image>\nHow many? ", reply, form=form, system="Be brief.")
        | {"images": ["a.png", "b.png"]},
        _chat("How many?", reply, form=form) | {"id": "x", "image": "a.png", "problem": None},
    ]
    first, second = read_examples(_write(tmp_path / "data.jsonl", rows), TASK, "train")
    assert (first.problem, first.cot, first.answer) == ("How many?", cot, answer)
    assert (second.problem, second.cot, second.answer) == ("How many?", cot, answer)
    assert [image.split("/")[-1] for image in first.images] == ["a.png", "b.png"]
    assert (first.id, second.id, len(second.images)) == ("data-0", "x", 1)


@pytest.mark.parametrize("form", ["messages", "conversations"])
@pytest.mark.parametrize(
    "texts, message",
    [
        (["How many?"], "no answer; expected a text as 'answer' or 'solution', found image, "),
        ([], "no question; expected a text as 'problem' or 'question', or a chat as 'messages'"),
        (["How many?", "2", "Sure?"], "is no chat of two"),
        (["How many?", "2", "Sure?", "Yes."], "is no chat of two"),
        (["How many?", 2], "the text of turn 2 is int; expected a text"),
        (["How many?", [{"type": "image"}, {"type": "text", "text": "2"}]], "'assistant': pict"),
        (["<image>", "2"], "no question"),
        (["<image><image>How many?", "2"], "2 <image> in the question for 1 pictures"),
        (["How many?", " "], "expected <think>thought</think><answer>answer</answer>"),
        (["How many?", "<think>One, two"], "expected <think>"),
        (["How many?", "<think>One.</think>"], "expected <think>"),
        (["How many?", "<think>One.</think><answer>2"], "expected <think>"),
        (["How many?", "Well: <think>One.</think><answer>2</answer>"], "expected <think>"),
        (["How many?", "<answer>2</answer> or <answer>3</answer>"], "expected <think>"),
        (["How many?", "<think>One.</think><answer> </answer>"], "expected <think>"),
    ],
)
def test_other_chats_are_named(tmp_path, form, texts, message):
    rows = [ROW, {"image": "a.png"} | _chat(*texts, form=form)]
    path = _write(tmp_path / "data.json", rows)
    _, bad = read_examples(path, TASK, "train")
    assert isinstance(bad, BadSample) and bad.cause == "malformed"
    assert str(bad).startswith(f"{path}: sample 1: ") and message in str(bad)
    assert "\n" not in str(bad)


@pytest.mark.parametrize("chat", [7, "How many?", {"a": 1}, [7], [{"from": "a", "value": "b"}]])
def test_what_is_no_chat(tmp_path, chat):
    path = _write(tmp_path / "data.json", [{"messages": chat}])
    with pytest.raises(UserError, match="no well-formed sample.* 0: 'messages' is no chat of two"):
        read_examples(path, TASK, "train")


@pytest.mark.parametrize(
    "name",
    ["AI2D-train-1k-cot", "GeoQA_train", "GeomVerse-cot", "PuzzleVQA-train", "Raven-train-cot"],
)
def test_every_other_file_of_the_published_layout_loads_by_its_path(tmp_path, name):
    train = _touch(tmp_path / f"images/train_images/{name}/1.png")
    test = _touch(tmp_path / "images/test_images/2.png")
    rows = [ROW | {"image": f"{name}/1.png"}, ROW | {"id": 6, "image": ["2.png", f"{name}/1.png"]}]
    path = _write(tmp_path / f"train_jsons/{name}.json", rows)
    _write(tmp_path / "train_jsons/A3-Visual-Counting-train-35k-cot.json")
    examples = read_examples(path, "structure_perception", "train")
    assert [example.images for example in examples] == [(train,), (test, train)]


EXTRA = ["AI2D-train-1k-cot", "GeoQA_train", "GeomVerse-cot", "GeoQA-plus-train", "latest-cot"]


@pytest.fixture
def published(tmp_path):
    for name in (*EXTRA, "A2-Structure-Perception-train-4k5-cot"):
        _write(tmp_path / f"train_jsons/{name}.json", [ROW | {"problem": name}])
    _write(tmp_path / "test_jsons/Structure-Perception-id-test-820.json")
    _write(tmp_path / "test_jsons/GeoMath.json")
    return tmp_path


@pytest.mark.parametrize(
    "name, found",
    [
        ("AI2D-train-1k-cot.json", "AI2D-train-1k-cot"),
        ("ai2d", "AI2D-train-1k-cot"),
        ("geomverse", "GeomVerse-cot"),
        ("GeoQA-train", "GeoQA_train"),
        ("geoqa_plus", "GeoQA-plus-train"),
        ("latest", "latest-cot"),
        ("structure", "A2-Structure-Perception-train-4k5-cot"),
    ],
)
def test_a_training_file_is_found_by_a_part_of_its_name(published, name, found):
    task = "structure_perception"
    splits = find_splits(published, task, name)
    assert splits == find_splits(published, task) | {
        "train": (str(published / f"train_jsons/{found}.json"),)
    }
    (example,) = read_examples(published, task, "train", "", name)
    assert example.problem == found and example.task == task


@pytest.mark.parametrize(
    "name, message",
    [
        ("geoqa", "several training files.*one of GeoQA-plus-train.json, GeoQA_train.json$"),
        ("raven", "no training file.*AI2D-train-1k-cot.json, "),
        ("id-test", "no training file"),
        ("geomath", "no training file"),
    ],
)
def test_an_unknown_training_file_lists_the_candidates(published, name, message):
    with pytest.raises(UserError, match=f"data.file={name}: {message}"):
        find_splits(published, "structure_perception", name)
    with pytest.raises(UserError, match="is a file; expected a folder"):
        find_splits(published / "test_jsons/GeoMath.json", "structure_perception", name)


def test_a_named_training_file_needs_no_other_file_of_the_task(published):
    assert list(find_splits(published, TASK, "ai2d")) == ["train"]


def test_a_name_chooses_between_two_training_files_of_a_task(tmp_path):
    for letter in "ab":
        _write(tmp_path / f"Visual-Counting-train-{letter}.json")
    path = _write(tmp_path / "Visual-Counting-test.json")
    splits = find_splits(tmp_path, TASK, "train-b")
    train = str(tmp_path / "Visual-Counting-train-b.json")
    assert splits == {"train": (train,), "id": (path,)}


def _images(path, *names, image_root=""):
    _write(path, [{**ROW, "id": name, "image": name} for name in names])
    examples = read_examples(path, TASK, "train", str(image_root))
    return [example.images[0] for example in examples]


def test_pictures_outside_of_the_image_root_are_refused(tmp_path):
    secret, inside = _touch(tmp_path / "secret.png"), _touch(tmp_path / "root/a/b.png")
    _touch(tmp_path / "rootless/c.png")  # its path begins like the root's
    climbing = ["../secret.png", "a/../../secret.png", "/etc/passwd", secret, "../rootless/c.png"]
    climbing += [str(tmp_path / "root/../secret.png"), "..", "../../../../../../etc/passwd"]
    for root in (tmp_path / "root", f"{tmp_path}/root/"):
        found = _images(tmp_path / "data.json", *climbing, image_root=root)
        for image, name in zip(found, climbing):
            assert isinstance(image, BadSample) and image.cause == "picture"
            assert str(image).startswith(name)
            with pytest.raises(BadSample, match="not opened"):
                open_image(image)
    names = ["a/b.png", "a/../a/b.png", "./a//b.png", inside, "../root/a/b.png"]
    assert _images(tmp_path / "data.json", *names, image_root=tmp_path / "root") == [inside] * 5


def test_links_inside_of_the_image_root_may_lead_out(tmp_path):
    secret = _touch(tmp_path / "elsewhere/a.png")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/link.png").symlink_to(secret)
    (tmp_path / "root/folder").symlink_to(tmp_path / "elsewhere")
    names = ["link.png", "folder/a.png"]
    found = _images(tmp_path / "data.json", *names, image_root=tmp_path / "root")
    assert found == [str(tmp_path / "root" / name) for name in names]
    # ".." is taken away before anything is looked up: it cannot follow a link out and up.
    _touch(tmp_path / "a.png")
    (found,) = _images(tmp_path / "data.json", "folder/../a.png", image_root=tmp_path / "root")
    assert found == str(tmp_path / "root/a.png")


def test_without_image_root_the_data_set_is_the_fence(tmp_path, monkeypatch):
    secret = _touch(tmp_path / "secret.png")
    inside = _touch(tmp_path / "set/pictures/a.png")
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "set/jsons/data.json", pathlib.Path("set/jsons/data.json")):
        found = _images(path, "../pictures/a.png", "pictures/a.png", secret)
        assert found == [inside, inside, secret]
        near, far = _images(path, "../../secret.png", "../../../../secret.png")
        assert near.startswith(str(tmp_path / "set")) and not pathlib.Path(near).exists()
        assert isinstance(far, BadSample)


def test_pictures_beside_a_linked_folder(tmp_path):
    picture = _touch(tmp_path / "disk/images/a.png")
    path = pathlib.Path(_write(tmp_path / "disk/jsons/data.json"))
    (tmp_path / "link").symlink_to(path.parent)
    assert _images(tmp_path / "link/data.json", "a.png") == [picture]


@pytest.mark.parametrize(
    "fields, part",
    [
        ({}, ""),
        ({"level": 2}, "level 2"),
        ({"level": None, "type": " both\nsteps"}, "type both steps"),
        ({"level": 0, "type": "a"}, "level 0"),
        ({"type": " "}, ""),
        ({"type": ["a"]}, ""),
    ],
)
def test_a_level_or_a_type_is_the_part_that_a_row_belongs_to(tmp_path, fields, part):
    (example,) = read_examples(_write(tmp_path / "data.json", [{**ROW, **fields}]), TASK, "id")
    assert example.part == part


def test_repeated_ids_are_told_apart(tmp_path, capsys):
    ids = ["a", "b", "a", None, "a#2", "a", "data-3", 7, "7", ""]
    path = _write(tmp_path / "data.json", [{**ROW, "id": name} for name in ids])
    found = [example.id for example in read_examples(path, TASK, "train")]
    assert found == [
        "a", "b", "a#2#2", "data-3", "a#2", "a#5", "data-3#6", "7", "7#8", "data-9"
    ]  # fmt: skip
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{path}: 4 samples" in line
    read_examples(_write(tmp_path / "other.json"), TASK, "train")
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    "row, message",
    [
        ({**ROW, "answer": None}, "sample 1: no answer"),
        ({"problem": "How many?"}, "sample 1: no answer"),
        ({**ROW, "answer": " "}, "sample 1: the answer is empty"),
        ({**ROW, "answer": ["3"]}, "sample 1: 'answer' is list, ['3']; expected a text or"),
        ({**ROW, "answer": True}, "sample 1: 'answer' is bool, True; expected a text or"),
        ({"problem": "Why?", "solution": {"content": "3"}}, "sample 1: 'solution' is dict, {'con"),
        ({**ROW, "answer": float("nan")}, "sample 1: no answer"),
        ({**ROW, "problem": ""}, "sample 1: no question"),
        ({**ROW, "problem": 7}, "sample 1: 'problem' is int, 7; expected a question"),
        ({**ROW, "image": 7}, "sample 1: a picture is 7"),
        ({**ROW, "image": ["a.png", None]}, "sample 1: a picture is None"),
        ({**ROW, "image": {}}, "sample 1: a picture is {}"),
        ({**ROW, "image": False}, "sample 1: a picture is False"),
        ({**ROW, "cot": 7}, "sample 1: 'cot' is int"),
        ({**ROW, "id": ["a"]}, "sample 1: 'id' is ['a']"),
        ({**ROW, "id": float("nan")}, "sample 1: 'id' is nan"),
        ("text", "sample 1: expected an object, found str"),
    ],
)
@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
def test_bad_rows_are_named_in_their_places(tmp_path, row, message, name):
    path = _write(tmp_path / name, [ROW, row, {**ROW, "id": None}])
    first, bad, last = read_examples(path, TASK, "train")
    assert (first.id, last.id) == ("5", "data-2")
    assert isinstance(bad, BadSample) and bad.cause == "malformed"
    assert str(bad).startswith(f"{path}: {message}") and "\n" not in str(bad)


def test_a_line_that_is_no_json_is_a_bad_row(tmp_path):
    path = tmp_path / "data.jsonl"
    good = json.dumps(ROW)
    path.write_text(f'{good}\n\n{{"problem"\r\n{good}\n{"[" * 100_000}\n1{"0" * 5000}\n')
    rows = read_examples(path, TASK, "train")
    assert [isinstance(row, BadSample) for row in rows] == [False, True, False, True, True]
    assert str(rows[1]).startswith(f"{path}: sample 1: line 3: not JSON: ")
    assert [row.id for row in rows if not isinstance(row, BadSample)] == ["5", "5#2"]


def test_a_file_of_nothing_but_bad_rows_is_an_error(tmp_path):
    path = _write(tmp_path / "data.json", [{**ROW, "problem": ""}, 7])
    with pytest.raises(UserError) as error:
        read_examples(path, TASK, "train")
    assert str(error.value).startswith(f"no well-formed sample in {path}: sample 0: no question")


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("data.json", b'[{"problem":\n oops}]', "line 2: not JSON"),
        ("data.jsonl", b'\n\n{"problem"', "no well-formed sample.*line 3: not JSON"),
        ("data.json", b"7", "expected a JSON list of objects, or an object a line, found int"),
        ("data.json", b'{"rows": []}', "no well-formed sample.*no question.* found rows"),
        ("data.json", b"[]", "no samples"),
        ("data.jsonl", b"", "no samples"),
        ("data.json", b"", "no samples"),
        ("data.json", b"\xef\xbb\xbf \n", "no samples"),
        ("data.json", b'[{"problem": "a", "answer": 1' + b"0" * 5000 + b"}]", "line 1: not JSON"),
        ("data.json", b"\xff\xfe\x00", "UTF-8"),
        ("data.json", b"[" * 100_000, "line 1: not JSON"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_examples(tmp_path / name, TASK, "train")
    assert "\n" not in str(error.value)


def test_bad_paths(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        find_splits(tmp_path / "nowhere", TASK)
    with pytest.raises(UserError, match="found none at all"):
        find_splits(tmp_path, TASK)
    _write(tmp_path / "Spatial-Transformation-train.json")
    with pytest.raises(UserError, match="found Spatial-Transformation-train.json"):
        find_splits(tmp_path, TASK)
    _write(tmp_path / "Visual-Counting-train-a.json")
    _write(tmp_path / "Visual-Counting-train-b.json")
    with pytest.raises(UserError, match="train-a.json and .*train-b.json both hold"):
        find_splits(tmp_path, TASK)
