"""What the libraries' exceptions are taken for."""

import pytest

from qlora_doctor.pipeline.failures import as_stage_error


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("quant_type must be nf4 on CPU, got fp4", "needs-gpu"),  # bitsandbytes 0.45
        ("Torch not compiled with CUDA enabled", "needs-gpu"),
        ("No GPU found. A GPU is needed for quantization.", "needs-gpu"),
        ("'LlamaConfig' object has no attribute 'rope_parameters'", "other"),
        ("CUDA out of memory. Tried to allocate 2.00 GiB", "out-of-memory"),
        ("size mismatch for model.embed_tokens.weight", "wrong-shape"),
    ],
)
def test_what_this_machine_lacks_is_no_fault_of_the_setup(text: str, kind: str) -> None:
    found = as_stage_error(ValueError(text), "loading the base")
    assert found.kind == kind and found.message.startswith("Loading the base failed: ")
    assert (found.remedy or "").startswith("Run this stage on a machine with a GPU") == (kind == "needs-gpu")
