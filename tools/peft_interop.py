"""Loads with PEFT what engrad saved, and compares the outputs: see docs/interop.md.

    cargo test --release --test golden_models
    python tools/peft_interop.py

The test loads every plain-LoRA folder that PEFT saved and saves it again under target/tmp. Here PEFT
loads those, on the same base model, and must give the logits that were stored with the originals.
`ENGRAD_GOLDEN=DIR`, set for both, adds the adapters of all-MiniLM-L6-v2.
"""

import os
import sys
from pathlib import Path

import peft
import torch
import transformers
from safetensors.torch import load_file

ROOT = Path(__file__).parent.parent
BASES = [(ROOT / "tests/golden", "bert_tiny", ROOT / "tests/golden/models/bert_tiny")]
if "ENGRAD_GOLDEN" in os.environ:
    golden = Path(os.environ["ENGRAD_GOLDEN"])
    BASES.append((golden, "minilm", golden / "../models/all-MiniLM-L6-v2"))

failed = False
print(f"PyTorch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}")
for golden, prefix, base in BASES:
    for folder in sorted((ROOT / "target/tmp").glob(f"{prefix}_*")):
        stored = load_file(golden / "peft" / folder.name / "reference.safetensors")
        model = transformers.BertForSequenceClassification.from_pretrained(base, num_labels=stored["logits"].shape[1])
        tuned = peft.PeftModel.from_pretrained(model, folder).double().eval()
        inputs = {name: stored[name].long() for name in ("input_ids", "attention_mask", "token_type_ids")}
        with torch.no_grad():
            logits = tuned(**inputs).logits
        off = ((logits - stored["logits"]).abs().max() / stored["logits"].abs().max()).item()
        failed |= not off < 1e-6
        print(f"{folder.name}: logits off by {off:.1e}")
sys.exit(failed)
