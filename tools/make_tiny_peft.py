"""Makes the small adapters under tests/golden/peft: one or more for each of PEFT's methods that engrad has.

The test suite itself needs no Python; this is how its committed values were computed, in float64 on
float32-representable weights, with PyTorch 2.15, transformers 5.23 and PEFT 0.21, on the models that lie
there already (`make_tiny_golden.py`, `make_tiny_zoo.py`):

    python tools/make_tiny_peft.py tests/golden

Layout and names are those of the larger references that `ENGRAD_GOLDEN` points at.
"""

import copy
import json
import sys
from pathlib import Path

import peft
import torch
import transformers
from safetensors.torch import save_file

OUT = Path(sys.argv[1])
MADE_WITH = f"PyTorch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}"
LENGTHS = [7, 3, 5]
TIME = max(LENGTHS)

# Only with a task does AdaLoRA's penalty join the loss.
LM = {"task_type": "CAUSAL_LM"}
VIRTUAL = {**LM, "num_virtual_tokens": 3}
ADALORA = {"init_r": 3, "target_r": 1, "lora_alpha": 6, "total_step": 100, "tinit": 10, "tfinal": 20, "deltaT": 2}
HEAD = {"modules_to_save": ["classifier"]}
GPT2 = {
    "adalora": peft.AdaLoraConfig(target_modules=["c_attn", "c_fc"], fan_in_fan_out=True, **ADALORA, **LM),
    "dora": peft.LoraConfig(r=2, use_dora=True, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True),
    "ia3": peft.IA3Config(target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"], fan_in_fan_out=True),
    "ln_tuning": peft.LNTuningConfig(target_modules=["ln_1", "ln_2", "ln_f"]),
    "loha": peft.LoHaConfig(r=2, alpha=3, target_modules=["lm_head"]),
    "lora_bias": peft.LoraConfig(r=2, lora_alpha=3, use_rslora=True, bias="lora_only", fan_in_fan_out=True,
                                 target_modules=["c_attn", "c_proj", "c_fc"]),
    "lora_embedding": peft.LoraConfig(r=2, target_modules=["wte"]),
    "lora_patterns": peft.LoraConfig(r=4, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True,
                                     rank_pattern={"h.0.attn.c_attn": 1, "c_fc": 3}, alpha_pattern={"h.1.attn.c_attn": 5},
                                     layers_to_transform=[0, 1], layers_pattern="h"),
    "p_tuning": peft.PromptEncoderConfig(encoder_hidden_size=5, **VIRTUAL),
    "prefix_tuning": peft.PrefixTuningConfig(**VIRTUAL),
    "prefix_tuning_projection": peft.PrefixTuningConfig(prefix_projection=True, encoder_hidden_size=5, **VIRTUAL),
    "prompt_tuning": peft.PromptTuningConfig(**VIRTUAL),
    "vera": peft.VeraConfig(r=5, target_modules=["c_attn"], fan_in_fan_out=True),
}
BERT = {
    "adalora_pruned": peft.AdaLoraConfig(target_modules=["query", "value"], task_type="SEQ_CLS", **ADALORA),
    "dora": peft.LoraConfig(r=2, use_dora=True, target_modules=["query", "value"], **HEAD),
    "ia3": peft.IA3Config(target_modules=["key", "value", "output.dense"], feedforward_modules=["output.dense"], **HEAD),
    "loha": peft.LoHaConfig(r=2, alpha=3, target_modules=["query", "value"], **HEAD),
    "lokr": peft.LoKrConfig(r=2, alpha=3, decompose_factor=4, target_modules=["query", "intermediate.dense"], **HEAD),
    "lokr_both": peft.LoKrConfig(r=1, alpha=3, decompose_both=True, target_modules=["query", "intermediate.dense"], **HEAD),
    "lora": peft.LoraConfig(r=3, lora_alpha=5, use_rslora=True, target_modules=["query", "value", "dense"], **HEAD),
    "prompt_tuning": peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3),
    "vera": peft.VeraConfig(r=5, target_modules=["query", "value"], **HEAD),
}
# The weight of these is the table of token vectors as well.
TIED = ["loha", "lora_embedding"]


def main():
    gpt2 = transformers.GPT2LMHeadModel.from_pretrained(OUT / "models/gpt2_mini").double().eval()
    ids, mask = batch(23)
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}
    gpt2.loss_function = next_token_loss
    for name, config in GPT2.items():
        adapter(gpt2, "gpt2_mini", inputs, name, config, {}, name not in TIED)
    torch.manual_seed(21)
    bert = transformers.BertForSequenceClassification.from_pretrained(OUT / "models/bert_tiny", num_labels=2).double().eval()
    for parameter in bert.classifier.parameters():
        parameter.data = (0.4 * torch.randn_like(parameter)).float().double()
    head = {f"init_classifier.{name}": value.float() for name, value in bert.classifier.state_dict().items()}
    ids, mask = batch(31)
    types = (torch.arange(TIME) >= 3).long() * mask
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types, "labels": torch.tensor([1, 0, 1])}
    for name, config in BERT.items():
        adapter(bert, "bert_tiny", inputs, name, config, head, True)


def next_token_loss(logits, labels, **_):
    """Without the rounding to float32 of the library's own."""
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def trained(model):
    # AdaLoRA's ranks count as trainable there, and are not.
    return {key: p for key, p in model.named_parameters() if p.requires_grad and "ranknum" not in key}


def batch(vocabulary):
    mask = (torch.arange(TIME) < torch.tensor(LENGTHS)[:, None]).long()
    return torch.randint(1, vocabulary, mask.shape, generator=torch.Generator().manual_seed(5)) * mask, mask


def adapter(base, model_name, inputs, name, config, stored, merges):
    torch.manual_seed(12)
    folder = OUT / "peft" / f"{model_name}_{name}"
    before = base(**inputs)
    tuned = peft.get_peft_model(copy.deepcopy(base), config).double().eval()
    for parameter in trained(tuned).values():
        parameter.data = (parameter.data + 0.1 * torch.randn_like(parameter)).float().double()
    if name == "adalora_pruned":
        prune(tuned)
    tuned.float().save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    written = json.loads((folder / "adapter_config.json").read_text())
    written["base_model_name_or_path"] = f"models/{model_name}"
    (folder / "adapter_config.json").write_text(json.dumps(written, indent=1))
    if name == "adalora_pruned":
        # Loading cuts the pruned ranks off.
        tuned = peft.PeftModel.from_pretrained(copy.deepcopy(base), folder, is_trainable=True)
    tuned.double().eval()
    out = tuned(**inputs)
    out.loss.backward()
    short = lambda key: key.removeprefix("base_model.model.").replace(".default", "")
    grads = {f"grad.{short(key)}": p.grad for key, p in trained(tuned).items()}
    logits = {"base_logits": before.logits, "base_loss": before.loss, "logits": out.logits, "loss": out.loss}
    tensors = {**inputs, **stored, **grads, **logits}
    if merges and not config.is_prompt_learning:
        merged = tuned.merge_and_unload()
        kept = base.state_dict()
        tensors |= {f"merged.{key}": value.float() for key, value in merged.state_dict().items()
                    if not torch.equal(value, kept[key])}
        tensors["merged_loss"] = merged(**inputs).loss
    save_file({key: value.detach().clone().contiguous() for key, value in tensors.items()}, folder / "reference.safetensors")
    notes = {"made_with": MADE_WITH, "tensors": "reference.safetensors", "base": f"models/{model_name}"}
    (folder / "reference.json").write_text(json.dumps(notes, indent=1))
    print(folder.name, sum(path.stat().st_size for path in folder.iterdir()))


def prune(tuned):
    """Drops different ranks in different layers, as AdaLoRA's allocator does at its end."""
    pattern = {}
    for number, (key, parameter) in enumerate((k, p) for k, p in tuned.named_parameters() if "lora_E" in k):
        kept = [True, number % 2 == 0, number % 3 == 0]
        parameter.data[~torch.tensor(kept)] = 0
        pattern[key.removeprefix("base_model.model.")] = kept
    tuned.peft_config["default"].rank_pattern = pattern


main()
