"""Makes the small model references under tests/golden: a BERT of a few thousand parameters.

The test suite itself needs no Python; this is how its committed values were computed, in float64
on float32-representable weights, with PyTorch 2.15, transformers 5.23 and PEFT 0.21:

    python tools/make_tiny_golden.py tests/golden

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
LENGTHS = [9, 4, 7, 1, 6, 9]
TIME = max(LENGTHS)


def main():
    torch.manual_seed(11)
    config = transformers.BertConfig(
        vocab_size=31, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=20,
        max_position_embeddings=12, type_vocab_size=2, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, initializer_range=0.4)
    model = transformers.BertForSequenceClassification(config).double().eval()
    for parameter in model.parameters():
        # Norms and biases too, so that no value hides behind a 1 or a 0.
        noise = 0.1 * torch.randn_like(parameter)
        parameter.data = (parameter.data + noise).float().double()

    here = OUT / "models" / "bert_tiny"
    here.mkdir(parents=True, exist_ok=True)
    (here / "config.json").write_text(json.dumps(config.to_dict(), indent=1))
    bare = {name: value.float().contiguous() for name, value in model.bert.state_dict().items()}
    save_file(bare, here / "model.safetensors", {"format": "pt"})

    inputs = batch(LENGTHS, seed=1)
    encode(model, inputs, here / "encode")
    classify(model, inputs, here / "classify_grad")
    curves(model, OUT / "train" / "bert_tiny")


def batch(lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), TIME)
    mask = (torch.arange(TIME) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(1, 31, shape, generator=generator) * mask
    types = (torch.arange(TIME) >= torch.tensor(lengths)[:, None] // 2).long() * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def write(path, tensors, notes):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.detach().clone().contiguous() for name, value in tensors.items()},
              f"{path}.safetensors")
    Path(f"{path}.json").write_text(json.dumps({"made_with": MADE_WITH, "tensors": f"{path.name}.safetensors", **notes}, indent=1))


def encode(model, inputs, path):
    out = model.bert(**inputs, output_hidden_states=True)
    mask = inputs["attention_mask"][:, :, None].double()
    mean = (out.last_hidden_state * mask).sum(1) / mask.sum(1)
    tensors = {f"hidden.{i}": h for i, h in enumerate(out.hidden_states)}
    tensors |= {"pooler_output": out.pooler_output, "embedding": torch.nn.functional.normalize(mean, dim=1)}
    write(path, {**inputs, **tensors}, {})


def head(model):
    return {f"classifier.{name}": value.float() for name, value in model.classifier.state_dict().items()}


def classify(model, inputs, path):
    labels = torch.tensor([0, 1, 1, 0, 1, 0])
    out = model(**inputs, labels=labels)
    out.loss.backward()
    grads = {f"grad.{name}": parameter.grad for name, parameter in model.named_parameters()}
    write(path, {**inputs, **head(model), "labels": labels, "logits": out.logits, "loss": out.loss, **grads}, {})
    model.zero_grad()


def curves(model, folder):
    """30 steps of LoRA and 20 of full fine-tuning on four batches in turn: is the first token odd?"""
    steps, batches = 30, [batch(LENGTHS, seed=20 + i) for i in range(4)]
    sequence = [batches[step % 4] for step in range(steps)]
    labels = [(b["input_ids"][:, 0] % 2) for b in sequence]
    stacked = {name: torch.stack([b[name] for b in sequence]) for name in ("input_ids", "attention_mask", "token_type_ids")}
    tensors = {**stacked, "labels": torch.stack(labels)}
    tensors |= {f"init.{name}": value for name, value in head(model).items()}
    torch.manual_seed(13)
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["query", "value"], modules_to_save=["classifier"])
    tuned = peft.get_peft_model(copy.deepcopy(model), config).double()
    for name, parameter in tuned.named_parameters():
        if "lora_A" in name:
            parameter.data = parameter.data.float().double()
            tensors["lora_init." + name.removeprefix("base_model.model.").replace(".default", "")] = parameter.data.float()
    lora = train(tuned, sequence, labels, 1e-2)
    full = train(copy.deepcopy(model), sequence[:20], labels, 1e-3)
    notes = {"lora": {"r": 2, "lora_alpha": 4, "lr": 1e-2}, "full": {"lr": 1e-3, "steps": 20},
             "warm_up": 5, "total": steps,
             "lora_curve": {"float64": lora}, "full_curve": {"float64": full}}
    write(folder / "run", tensors, notes)


def train(model, sequence, labels, rate):
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 5, 30)
    losses, norms = [], []
    for inputs, target in zip(sequence, labels):
        loss = model(**inputs, labels=target).loss
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, 1.0).item())
        losses.append(loss.item())
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return {"loss": losses, "grad_norm": norms}


main()
