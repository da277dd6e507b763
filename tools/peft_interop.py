"""Loads with PEFT what engrad saved: no key may be missing or unexpected, and the outputs must be those
that were stored with the originals. See docs/interop.md.

    cargo test --release --test golden_peft
    python tools/peft_interop.py

The test loads every folder that PEFT saved and saves it again under target/tmp/peft; here PEFT loads
those on the same base model. `ENGRAD_GOLDEN=DIR`, set for both, takes the larger folders instead. The keys
that a folder should hold are those that PEFT itself would write. Last run with PyTorch 2.15, transformers
5.23 and PEFT 0.21.2.
"""

import json
import os
import sys
import warnings
from pathlib import Path

import peft
import torch
import transformers
from safetensors.torch import load_file

warnings.filterwarnings("ignore")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
ROOT = Path(__file__).parent.parent
GOLDEN = Path(os.environ.get("ENGRAD_GOLDEN", ROOT / "tests/golden"))


def base_model(notes, stored):
    name = notes["base"].removeprefix("golden/")
    path = GOLDEN / name if (GOLDEN / name).exists() else GOLDEN / ".." / name
    if "init_classifier.bias" not in stored:
        return transformers.GPT2LMHeadModel.from_pretrained(path)
    labels = len(stored["init_classifier.bias"])
    model = transformers.BertForSequenceClassification.from_pretrained(path, num_labels=labels)
    head = {key.removeprefix("init_classifier."): value for key, value in stored.items() if key.startswith("init_")}
    model.classifier.load_state_dict(head)
    return model


def check(folder):
    original = GOLDEN / "peft" / folder.name
    stored = load_file(original / "reference.safetensors")
    model = base_model(json.loads((original / "reference.json").read_text()), stored)
    tuned = peft.PeftModel.from_pretrained(model, folder)
    found = load_file(folder / "adapter_model.safetensors").keys()
    expected = peft.get_peft_model_state_dict(tuned, save_embedding_layers=False).keys()
    missing, unexpected = expected - found, found - expected
    tuned.double().eval()
    names = ("input_ids", "attention_mask", "token_type_ids")
    inputs = {name: stored[name].long() for name in names if name in stored}
    with torch.no_grad():
        logits = tuned(**inputs).logits
    # What stands at padding means nothing.
    kept = torch.ones(logits.shape[:-1], dtype=torch.bool)
    if logits.dim() == 3:
        mask = inputs["attention_mask"].bool()
        kept[:, logits.shape[1] - mask.shape[1]:] = mask
    off = ((logits - stored["logits"])[kept].abs().max() / stored["logits"].abs().max()).item()
    good = not missing and not unexpected and off < 1e-6
    print(f"{'ok  ' if good else 'FAIL'} {folder.name}: {len(missing)} keys missing, {len(unexpected)} unexpected, "
          f"logits off by {off:.1e}", *sorted(missing), *sorted(unexpected))
    return good


print(f"PyTorch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}")
results = [check(folder) for folder in sorted((ROOT / "target/tmp/peft").iterdir())
           if (GOLDEN / "peft" / folder.name).exists()]
print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
sys.exit(not all(results) or not results)
