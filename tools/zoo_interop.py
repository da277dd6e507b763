"""Checks that transformers loads what engrad saved, and that no byte of any tensor changed.

    ENGRAD_SAVED=$PWD/saved ENGRAD_DEVICE=cpu cargo test --release --test golden_models
    python tools/zoo_interop.py tests/golden/models saved

Every model of the golden folder is loaded, saved by engrad, and loaded here with the class that its
tensors ask for: no key may be missing or unexpected, and each tensor must equal the original's.
Last run with transformers 5.23 and PyTorch 2.15.
"""

import json
import sys
from pathlib import Path

import torch
import transformers as hf
from safetensors.torch import load_file

ORIGINALS, SAVED = map(Path, sys.argv[1:])
CLASSES = {
    "gpt2": [("score.weight", "GPT2ForSequenceClassification"), ("", "GPT2LMHeadModel")],
    "llama": [("", "LlamaForCausalLM")],
    "bert": [("cls.", "BertForMaskedLM"), ("classifier", "BertForTokenClassification"), ("", "BertModel")],
    "roberta": [("lm_head", "RobertaForMaskedLM"), ("classifier", "RobertaForSequenceClassification")],
    "bart": [("", "BartForConditionalGeneration")],
    "marian": [("", "MarianMTModel")],
    "t5": [("", "T5ForConditionalGeneration")],
}

failed = 0
for folder in sorted(path.parent for path in SAVED.glob("*/config.json")):
    tensors = load_file(folder / "model.safetensors")
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    name = next(name for part, name in CLASSES[kind] if any(key.startswith(part) for key in tensors))
    model, info = getattr(hf, name).from_pretrained(folder, output_loading_info=True)
    problems = [f"{what}: {info[what]}" for what in ("missing_keys", "unexpected_keys", "mismatched_keys") if info.get(what)]
    original = ORIGINALS / folder.name / "model.safetensors"
    if original.exists():
        before = load_file(original)
        # Computed positions may be left out of a file; ours hold them.
        keys = before.keys() | {key for key in tensors if "embed_positions" not in key}
        problems += [f"{key} differs" for key in keys
                     if key not in before or key not in tensors or before[key].dtype != tensors[key].dtype
                     or not torch.equal(before[key], tensors[key])]
    failed += bool(problems)
    print(f"{folder.name}: {name} with {len(tensors)} tensors:", "; ".join(problems) or "the same")
sys.exit(failed > 0)
