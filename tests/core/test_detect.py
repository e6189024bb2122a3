"""A model's family, read from its index."""

import subprocess
import sys

import huggingface_hub
import pytest

from ddpo_core.denoisers.detect import check_pipeline_class, pipeline_class
from ddpo_core.errors import EnvironmentFault, UsageError


def index(folder, text):
    (folder / "model_index.json").write_text(text)
    return str(folder)


def test_a_folders_class_is_the_one_its_index_names(tmp_path):
    assert pipeline_class(index(tmp_path, '{"_class_name": "FluxPipeline"}')) == "FluxPipeline"


def test_of_a_hub_id_only_the_index_of_that_revision_is_fetched(tmp_path, monkeypatch):
    asked = []

    def fetch(*what, **options):
        asked.append((what, options))
        index(tmp_path, '{"_class_name": "StableDiffusion3Pipeline"}')
        return str(tmp_path / "model_index.json")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    assert pipeline_class("someone/model", "v2") == "StableDiffusion3Pipeline"
    assert asked == [(("someone/model", "model_index.json"), {"revision": "v2"})]


def test_a_hub_id_that_cannot_be_reached_is_an_environment_fault_that_says_what_to_type():
    with pytest.raises(EnvironmentFault, match="cannot load 'no-such/model'") as error:
        pipeline_class("no-such/model")
    assert "hf auth login" in error.value.hint


@pytest.mark.parametrize("path", ["./nowhere", "/no/such/folder", "~/no/such/folder"])
def test_a_path_that_is_not_there_is_not_taken_for_a_hub_id(path):
    with pytest.raises(UsageError, match="there is no folder"):
        pipeline_class(path)


def test_a_folder_without_an_index_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no model_index\.json"):
        pipeline_class(str(tmp_path))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": 1}'])
def test_an_index_without_a_class_is_refused(tmp_path, text):
    with pytest.raises(UsageError, match="names no pipeline"):
        pipeline_class(index(tmp_path, text))


def test_a_pipeline_of_another_class_is_refused_with_the_way_to_its_adapter(tmp_path):
    folder = index(tmp_path, '{"_class_name": "FluxPipeline"}')
    with pytest.raises(UsageError, match="is a FluxPipeline; expected a StableDiffusionXLPipeline") as error:
        check_pipeline_class(folder, "StableDiffusionXLPipeline")
    assert "`ddpo models list`" in error.value.hint


def test_looking_imports_no_torch(tmp_path):
    folder = index(tmp_path, '{"_class_name": "FluxPipeline"}')
    code = (
        f"import sys; from ddpo_core.denoisers.detect import pipeline_class; pipeline_class({folder!r});"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
