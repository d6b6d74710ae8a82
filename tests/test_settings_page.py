"""The page on configs: it is current, and the config in it works."""

import re

from rrft_jax import command, settings_page


def test_the_page_is_current():
    text = settings_page.PAGE.read_text(encoding="utf-8")
    assert text == settings_page.page(), "run: python -m rrft_jax.settings_page"


def test_its_own_config_and_its_python_work(tmp_path):
    own, python = re.findall("```python\n(.*?)```", settings_page.page(), re.DOTALL)
    file = tmp_path / "my_run.py"
    file.write_text(own)
    config, _ = command.parse([f"--config={file}:model=2b"])
    assert config.grpo.advantages == "rloo" and config.grpo.rewards["repetition"] == 0.1
    assert (config.model.name, config.data.path) == ("2b", "my_dataset")
    exec(python, {})
