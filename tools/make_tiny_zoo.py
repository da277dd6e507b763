"""Makes the smallest references under tests/golden/models: one model of a few thousand parameters per family.

    python tools/make_tiny_zoo.py tests/golden

Values are computed in float64 on float32-representable weights, with PyTorch 2.15 and transformers 5.23.
Layout and names are those of the larger references that `ENGRAD_GOLDEN` points at, so one test reads both.
"""

import json
import sys
from pathlib import Path

import torch
import transformers as hf
from safetensors.torch import save_file

OUT = Path(sys.argv[1]) / "models"
MADE_WITH = f"PyTorch {torch.__version__}, transformers {hf.__version__}"
VOCABULARY = 23
torch.set_default_dtype(torch.float64)

# RMS norm and the rotary angles round to float32 inside; here they must not.
hf.models.llama.modeling_llama.LlamaRMSNorm.forward = lambda self, x: self.weight * x * torch.rsqrt(
    x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
hf.models.t5.modeling_t5.T5LayerNorm.forward = lambda self, x: self.weight * x * torch.rsqrt(
    x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)


def rotary(self, x, position_ids):
    head = self.config.head_dim
    frequency = 10000.0 ** (-torch.arange(0, head, 2, dtype=torch.float64) / head)
    angle = position_ids[:, :, None].double() * frequency
    angle = torch.cat((angle, angle), -1)
    return angle.cos(), angle.sin()


hf.models.llama.modeling_llama.LlamaRotaryEmbedding.forward = rotary


def fresh(kind, config, seed):
    torch.manual_seed(seed)
    model = kind(config).double().eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = (parameter.data + 0.2 * torch.randn_like(parameter)).float().double()
    return model


def mask(lengths, left=False):
    time, lengths = max(lengths), torch.tensor(lengths)[:, None]
    at = torch.arange(time)
    return ((at >= time - lengths) if left else (at < lengths)).long()


def ids(shape, seed):
    return torch.randint(3, VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


def write(folder, name, tensors, notes=None):
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.detach().clone().contiguous() for key, value in tensors.items()}, folder / f"{name}.safetensors")
    (folder / f"{name}.json").write_text(json.dumps({"made_with": MADE_WITH, **(notes or {})}))


def weights(folder, model):
    folder.mkdir(parents=True, exist_ok=True)
    model.float().save_pretrained(folder)
    model.double()
    (folder / "generation_config.json").unlink(missing_ok=True)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {f"grad.{name}": parameter.grad.float() for name, parameter in model.named_parameters() if parameter.grad is not None}


def cross_entropy(logits, labels):
    return torch.nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=-100)


def causal(name, model, seed):
    folder = OUT / name
    weights(folder, model)
    kept = mask([7, 4, 1])
    tokens = ids(kept.shape, seed) * kept
    labels = torch.where(kept == 1, tokens, -100)
    out = model(input_ids=tokens, attention_mask=kept, output_hidden_states=True)
    shifted = torch.cat((labels[:, 1:], torch.full((len(labels), 1), -100)), 1)
    loss = cross_entropy(out.logits, shifted)
    hidden = {f"hidden.{at}": state for at, state in enumerate(out.hidden_states)}
    write(folder, "right_padded", {"input_ids": tokens, "attention_mask": kept, "labels": labels, "logits": out.logits,
                                   "loss": loss, **hidden, **gradients(model, loss)})
    kept = mask([2, 6, 4], left=True)
    tokens = ids(kept.shape, seed + 1) * kept
    places = (kept.cumsum(-1) - 1).clamp(min=0)
    out = model(input_ids=tokens, attention_mask=kept, position_ids=places)
    write(folder, "left_padded", {"input_ids": tokens, "attention_mask": kept, "logits": out.logits})

    options = dict(do_sample=False, pad_token_id=0)
    cases = []
    for length in (1, 3, 5):
        prompt = ids((1, length), seed + 2 + length)
        greedy = model.generate(prompt, max_new_tokens=10, eos_token_id=None, **options)
        beam = model.generate(prompt, max_new_tokens=12, num_beams=4, eos_token_id=2, early_stopping=True, **options)
        cases.append({"prompt": prompt[0].tolist(), "greedy": greedy[0].tolist(),
                      "beam4_eos2_new12_early_stopping": beam[0].tolist()})
    batched = model.generate(tokens, attention_mask=kept, max_new_tokens=8, eos_token_id=None, **options)
    settings = [
        dict(repetition_penalty=1.7), dict(no_repeat_ngram_size=2), dict(eos_token_id=[2, 5, 7], min_new_tokens=6),
        dict(num_beams=3, length_penalty=2.0, eos_token_id=[2, 5, 7, 11]),
        dict(num_beams=3, length_penalty=-1.0, eos_token_id=[2, 5, 7, 11], no_repeat_ngram_size=3),
        dict(num_beams=2, repetition_penalty=1.3, eos_token_id=[4, 6, 9, 13], min_new_tokens=3),
    ]
    others = []
    for setting in settings:
        full = {"eos_token_id": None, **setting}
        found = model.generate(tokens[1:2], max_new_tokens=12, **full, **options)
        others.append({"prompt": tokens[1].tolist(), "settings": setting, "text": found[0].tolist()})
    (folder / "generate.json").write_text(json.dumps({
        "made_with": MADE_WITH, "cases": cases, "settings": others,
        "batched_left_padded": {"input_ids": tokens.tolist(), "attention_mask": kept.tolist(), "sequences": batched.tolist()}}))


def encoder(name, model, seed, labels, types=False):
    folder = OUT / name
    weights(folder, model)
    kept = mask([8, 5, 2])
    padding = model.config.pad_token_id
    tokens = torch.where(kept == 1, ids(kept.shape, seed), padding)
    inputs = {"input_ids": tokens, "attention_mask": kept}
    if types:
        inputs["token_type_ids"] = (torch.arange(8) > 2).long() * kept
    out = model(**inputs, output_hidden_states=True)
    if labels is None:
        labels = torch.where((torch.arange(8) % 2 == 0) & (kept == 1), tokens, -100)
        loss = cross_entropy(out.logits, labels)
    elif labels.is_floating_point():
        loss = torch.nn.functional.mse_loss(out.logits.squeeze(-1), labels)
    else:
        loss = cross_entropy(out.logits, labels)
    hidden = {f"hidden.{at}": state for at, state in enumerate(out.hidden_states)}
    write(folder, "forward", {**inputs, "labels": labels, "logits": out.logits, "loss": loss, **hidden, **gradients(model, loss)})


def classifier(name, model, seed):
    folder = OUT / name
    weights(folder, model)
    kept = mask([6, 3, 1])
    tokens = ids(kept.shape, seed) * kept
    labels = torch.tensor([0, 2, 1])
    logits = model(input_ids=tokens, attention_mask=kept).logits
    loss = cross_entropy(logits, labels)
    write(folder, "classify", {"input_ids": tokens, "attention_mask": kept, "labels": labels, "logits": logits,
                               "loss": loss, **gradients(model, loss)})


def seq2seq(name, model, seed):
    folder = OUT / name
    weights(folder, model)
    kept = mask([7, 4, 2])
    tokens = ids(kept.shape, seed) * kept
    target = mask([5, 3, 1])
    labels = torch.where(target == 1, ids(target.shape, seed + 1), -100)
    decoder = torch.cat((torch.full((3, 1), model.config.decoder_start_token_id), labels[:, :-1].clamp(min=0)), 1)
    memory = model.get_encoder()(input_ids=tokens, attention_mask=kept).last_hidden_state
    logits = model(input_ids=tokens, attention_mask=kept, decoder_input_ids=decoder).logits
    loss = cross_entropy(logits, labels)
    options = dict(max_new_tokens=12, num_beams=1, do_sample=False, forced_eos_token_id=None, pad_token_id=0, eos_token_id=1)
    greedy = model.generate(input_ids=tokens, attention_mask=kept, **options)
    beam = model.generate(input_ids=tokens, attention_mask=kept, **{**options, "num_beams": 3, "length_penalty": 1.5})
    write(folder, "forward", {"input_ids": tokens, "attention_mask": kept, "labels": labels, "encoder_last_hidden": memory,
                              "logits": logits, "loss": loss, "greedy": greedy, "beam3": beam, **gradients(model, loss)})


def main():
    small = dict(vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=2)
    gpt2 = dict(**small, n_positions=24, n_embd=16, n_layer=2, n_head=2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
    causal("gpt2_mini", fresh(hf.GPT2LMHeadModel, hf.GPT2Config(**gpt2, n_inner=20), 1), 10)
    classifier("gpt2_mini_classes", fresh(hf.GPT2ForSequenceClassification, hf.GPT2Config(**gpt2, pad_token_id=0, num_labels=3), 2), 20)
    llama = dict(**small, hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=24)
    causal("llama_mini", fresh(hf.LlamaForCausalLM, hf.LlamaConfig(**llama, num_key_value_heads=2), 3), 30)
    encoder_sizes = dict(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=20,
                         max_position_embeddings=14, hidden_dropout_prob=0, attention_probs_dropout_prob=0)
    roberta = dict(**encoder_sizes, type_vocab_size=1, pad_token_id=1)
    encoder("roberta_mini_words", fresh(hf.RobertaForMaskedLM, hf.RobertaConfig(**roberta), 5), 50, None)
    encoder("roberta_mini_classes", fresh(hf.RobertaForSequenceClassification, hf.RobertaConfig(**roberta, num_labels=3), 6), 60, torch.tensor([2, 0, 1]))
    encoder("roberta_mini_number", fresh(hf.RobertaForSequenceClassification, hf.RobertaConfig(**roberta, num_labels=1), 7), 70, torch.tensor([0.5, -1.0, 2.0]))
    bert = dict(**encoder_sizes, type_vocab_size=2, pad_token_id=0)
    encoder("bert_mini_words", fresh(hf.BertForMaskedLM, hf.BertConfig(**bert), 8), 80, None, types=True)
    encoder("bert_mini_tokens", fresh(hf.BertForTokenClassification, hf.BertConfig(**bert, num_labels=5), 9), 90,
            torch.where(mask([8, 5, 2]) == 1, torch.arange(8) % 5, -100), types=True)
    pair = dict(vocab_size=VOCABULARY, d_model=16, encoder_layers=1, encoder_ffn_dim=20, encoder_attention_heads=2,
                decoder_layers=2, decoder_ffn_dim=12, decoder_attention_heads=4, max_position_embeddings=20, dropout=0,
                pad_token_id=0, bos_token_id=2, eos_token_id=1, forced_eos_token_id=None)
    seq2seq("bart_mini", fresh(hf.BartForConditionalGeneration, hf.BartConfig(**pair, decoder_start_token_id=1), 11), 110)
    seq2seq("marian_mini", fresh(hf.MarianMTModel, hf.MarianConfig(**pair, decoder_vocab_size=VOCABULARY, decoder_start_token_id=0,
                                                                   scale_embedding=True, activation_function="swish"), 12), 120)
    t5 = dict(vocab_size=VOCABULARY, d_model=16, d_kv=6, d_ff=20, num_layers=2, num_decoder_layers=2, num_heads=2, dropout_rate=0,
              relative_attention_num_buckets=6, relative_attention_max_distance=9, decoder_start_token_id=0)
    seq2seq("t5_mini", fresh(hf.T5ForConditionalGeneration, hf.T5Config(**t5), 13), 130)
    seq2seq("t5_mini_gated", fresh(hf.T5ForConditionalGeneration, hf.T5Config(**t5, feed_forward_proj="gated-gelu", tie_word_embeddings=False), 14), 140)


main()
