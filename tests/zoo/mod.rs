//! A folder of `models` against PyTorch, except those that `golden_models.rs` knows in more detail: scores,
//! hidden states, loss, the gradient of every parameter, greedy and beam-search texts, and a round trip
//! through our own files.

mod published;
mod texts;

use std::path::{Path, PathBuf};

use engrad::nn::{
    Activation, Cache, CausalLm, Choose, Classifier, DecoderClassifier, Encoder, Fresh, Generation,
    LanguageModel, Model, Module, Order, Param, Pretrained, Seq2Seq, Sequences, Side, TokenBatch,
    Transformer, TransformerConfig, load, named_params, translate,
};
use engrad::{Device, Gradients, Mask, Reduction, Tensor, inference};

use crate::Report;
use crate::stored::{Stored, deviation, where_kept};

/// Checks a folder of `golden/models`; a published model's own files lie in `published`.
pub fn check(path: &Path, published: &Path, device: &Device, report: &mut Report) {
    let name = path.file_name().expect("it was listed").to_string_lossy();
    let (logits, gradient) = match device {
        Device::Reference => (1e-7, 1e-7),
        _ => (2e-5, 1e-4),
    };
    let mut folder = Folder { path, device, logits, gradient, worst: [0.0; 2], wrong: Vec::new() };
    match &*name {
        "stories260K" | "capp-gpt2" => folder.pretrained(&published.join(&*name)),
        _ if name.starts_with("nn_transformer") => folder.transformer(name.contains("pre")),
        _ => folder.model(),
    }
    let [values, gradients] = folder.worst;
    let what = format!("values off by {values:.1e}, gradients by {gradients:.1e}{}", folder.wrong.join(""));
    report.that(folder.wrong.is_empty(), &what);
}

/// One folder on one device.
struct Folder<'a> {
    path: &'a Path,
    device: &'a Device,
    logits: f64,
    gradient: f64,
    /// The largest deviations of values and of gradients.
    worst: [f64; 2],
    wrong: Vec<String>,
}

impl Folder<'_> {
    fn stored(&self, file: &str) -> Stored {
        Stored::read(self.path.join(file))
    }

    fn has(&self, file: &str) -> bool {
        self.path.join(file).exists()
    }

    fn that(&mut self, good: bool, what: &str) {
        if !good {
            self.wrong.push(format!("\n       {what}"));
        }
    }

    fn value(&mut self, what: &str, found: &[f64], expected: &[f64]) {
        let off = deviation(found, expected, 0.0);
        self.worst[0] = self.worst[0].max(off);
        self.that(off <= self.logits, &format!("{what}: off by {off:.1e}"));
    }

    /// Every stored gradient, and that there is one for each parameter that learns.
    fn gradients(
        &mut self,
        params: &[(String, Param)],
        gradients: &Gradients,
        stored: &Stored,
        padding: Option<usize>,
    ) {
        for (name, param) in params {
            let key = format!("grad.{name}");
            if !stored.has(&key) {
                self.that(!param.is_trainable(), &format!("{name} has no stored gradient"));
                continue;
            }
            let Some(found) = gradients.of(&param.value()) else {
                self.that(false, &format!("{name} got no gradient"));
                continue;
            };
            let (mut found, mut expected) = (param.stored(found).to_f64(), stored.values(&key));
            // PyTorch's tables take no gradient at the configured padding, even where it stands for a
            // token, as the start of a text.
            let table = ["word_embeddings.weight", "shared.weight"].iter().any(|end| name.ends_with(end));
            if let Some(row) = padding.filter(|_| table) {
                let width = param.sizes()[1];
                found[row * width..(row + 1) * width].fill(0.0);
                expected[row * width..(row + 1) * width].fill(0.0);
            }
            // Softmax does not see what all keys share: the gradient of their bias is rounding alone.
            let weight = name.strip_suffix("bias").map(|start| format!("grad.{start}weight"));
            let key_bias = name.ends_with("key.bias") || name.ends_with("k_proj.bias");
            let scale = weight.filter(|_| key_bias).map_or(0.0, |weight| largest(&stored.values(&weight)));
            let off = deviation(&found, &expected, scale);
            self.worst[1] = self.worst[1].max(off);
            self.that(off <= self.gradient, &format!("{name}: gradient off by {off:.1e}"));
        }
    }

    /// What is loaded, saved and loaded again is the same, byte for byte. `ENGRAD_SAVED=DIR` keeps what
    /// was saved, for `tools/zoo_interop.py` to load elsewhere.
    fn round_trip(&mut self, loaded: &Pretrained) {
        let passing = tempfile::tempdir().expect("a place for files");
        let kept = std::env::var_os("ENGRAD_SAVED").map(PathBuf::from);
        let name = self.path.file_name().expect("a folder has a name");
        let directory = kept.unwrap_or(passing.path().to_path_buf()).join(name);
        loaded.save(&directory).expect("it is written");
        let again = Pretrained::from_directory(&directory, self.device).expect("what we write, we read");
        let (before, after) = (named_params(&loaded.model), named_params(&again.model));
        let same = before.len() == after.len()
            && before
                .iter()
                .zip(&after)
                .all(|((a, x), (b, y))| a == b && x.value().to_f64() == y.value().to_f64());
        self.that(same && loaded.config == again.config, "a round trip changes the model");
    }

    fn model(&mut self) {
        let loaded = Pretrained::from_directory(self.path, self.device).expect("the model loads");
        self.round_trip(&loaded);
        let padding =
            loaded.config.get("pad_token_id").and_then(serde_json::Value::as_u64).map(|id| id as usize);
        match &loaded.model {
            Model::CausalLm(model) => {
                self.causal(model);
                if self.has("generate.json") {
                    self.texts(model);
                }
            }
            Model::DecoderClassifier(model) => self.decoder_classifier(model),
            Model::Classifier(model) => self.classifier(model, padding),
            Model::MaskedLm(model) => {
                self.each_token(&model.encoder, &|batch| model.forward(batch), model, padding);
            }
            Model::Bart(model) => self.seq2seq(model, model, padding),
            Model::T5(model) => self.seq2seq(model, model, None),
            Model::TokenClassifier(model) => {
                self.each_token(&model.encoder, &|batch| model.forward(batch), model, padding);
            }
            Model::Encoder(_) => unreachable!("no folder holds a bare encoder"),
        }
    }

    fn causal(&mut self, model: &CausalLm) {
        for (file, side) in [("right_padded", Side::Right), ("left_padded", Side::Left)] {
            let stored = self.stored(file);
            let batch =
                model.batch(&rows(&stored, "input_ids", Some("attention_mask")), side).expect("it fits");
            let logits = model.forward(&batch);
            self.value(
                file,
                &of_tokens(&batch, &logits.to_f64()),
                &of_tokens(&batch, &stored.values("logits")),
            );
            if side == Side::Left {
                continue;
            }
            let mut cache = Cache::none(batch.starts());
            for (at, state) in model.body.hidden_states(&batch.ids, &mut cache).iter().enumerate() {
                let expected = stored.values(&format!("hidden.{at}"));
                self.value("hidden", &of_tokens(&batch, &state.to_f64()), &of_tokens(&batch, &expected));
            }
            let loss = logits.flatten(0, 1).cross_entropy(&stored.next_labels(model.vocabulary()));
            self.value("loss", &loss.to_f64(), &stored.values("loss"));
            self.gradients(&named_params(model), &loss.backward(), &stored, None);
        }
    }

    fn decoder_classifier(&mut self, model: &DecoderClassifier) {
        let stored = self.stored("classify");
        let rows = rows(&stored, "input_ids", Some("attention_mask"));
        let labels = stored.labels("labels", None, model.score.outputs());
        for side in [Side::Left, Side::Right] {
            let logits = model.forward(&model.batch(&rows, side).expect("it fits"));
            self.value("logits", &logits.to_f64(), &stored.values("logits"));
            let loss = logits.cross_entropy(&labels);
            self.value("loss", &loss.to_f64(), &stored.values("loss"));
            self.gradients(&named_params(model), &loss.backward(), &stored, None);
        }
    }

    fn token_batch(&self, stored: &Stored, encoder: &Encoder) -> TokenBatch {
        let (sequences, types) = stored.sequences(None);
        encoder.batch(&sequences, types.as_deref()).expect("it fits")
    }

    fn hidden_states(&mut self, stored: &Stored, encoder: &Encoder, batch: &TokenBatch) {
        for (at, state) in inference(|| encoder.hidden_states(batch)).iter().enumerate() {
            if stored.has(&format!("hidden.{at}")) {
                let kept = stored.values("attention_mask");
                let expected = stored.values(&format!("hidden.{at}"));
                self.value("hidden", &where_kept(&state.to_f64(), &kept), &where_kept(&expected, &kept));
            }
        }
    }

    fn classifier(&mut self, model: &Classifier, padding: Option<usize>) {
        let stored = self.stored("forward");
        let batch = self.token_batch(&stored, &model.encoder);
        self.hidden_states(&stored, &model.encoder, &batch);
        let logits = model.forward(&batch);
        self.value("logits", &logits.to_f64(), &stored.values("logits"));
        let loss = match model.head.outputs() {
            1 => logits.squeeze(-1).mse_loss(&stored.tensor("labels", self.device), Reduction::Mean),
            labels => logits.cross_entropy(&stored.labels("labels", None, labels)),
        };
        self.value("loss", &loss.to_f64(), &stored.values("loss"));
        self.gradients(&named_params(model), &loss.backward(), &stored, padding);
    }

    fn each_token(
        &mut self,
        encoder: &Encoder,
        forward: &dyn Fn(&TokenBatch) -> Tensor,
        module: &dyn Module,
        padding: Option<usize>,
    ) {
        let stored = self.stored("forward");
        let batch = self.token_batch(&stored, encoder);
        self.hidden_states(&stored, encoder, &batch);
        let (logits, kept) = (forward(&batch), stored.values("attention_mask"));
        let expected = where_kept(&stored.values("logits"), &kept);
        self.value("logits", &where_kept(&logits.to_f64(), &kept), &expected);
        let loss = logits.flatten(0, 1).cross_entropy(&stored.token_labels("labels", logits.size(-1)));
        self.value("loss", &loss.to_f64(), &stored.values("loss"));
        self.gradients(&named_params(module), &loss.backward(), &stored, padding);
    }

    fn seq2seq(&mut self, model: &dyn Seq2Seq, module: &dyn Module, padding: Option<usize>) {
        let stored = self.stored("forward");
        let source = model.sources(&rows(&stored, "input_ids", Some("attention_mask"))).expect("it fits");
        let memory = inference(|| model.encode(&source));
        let expected = stored.values("encoder_last_hidden");
        self.value("memory", &of_tokens(&source, &memory.to_f64()), &of_tokens(&source, &expected));
        // The decoder reads padding as a token wherever no label counts.
        let time = stored.sizes("labels")[1];
        let pad = padding.unwrap_or(0) as f64;
        let labels = stored
            .values("labels")
            .iter()
            .map(|&id| if id < 0.0 { pad } else { id } as u32)
            .collect::<Vec<_>>();
        let labels: Vec<Vec<u32>> = labels.chunks(time).map(<[u32]>::to_vec).collect();
        let logits = model.translate(&source, &model.targets(&labels).expect("it fits"));
        self.value("logits", &logits.to_f64(), &stored.values("logits"));
        let loss = logits.flatten(0, 1).cross_entropy(&stored.token_labels("labels", model.vocabulary()));
        self.value("loss", &loss.to_f64(), &stored.values("loss"));
        self.gradients(&named_params(module), &loss.backward(), &stored, padding);

        let greedy = Generation { end: vec![1], ..Generation::greedy(12) };
        let choose = Choose::Beams { beams: 3, length_penalty: 1.5, early: false };
        for (name, settings) in [("beam3", Generation { choose, ..greedy.clone() }), ("greedy", greedy)] {
            if !stored.has(name) {
                continue;
            }
            let found = translate(model, &source, &settings, &mut |_, _| ()).expect("it translates");
            for (found, expected) in found.iter().zip(rows(&stored, name, None)) {
                // Stored texts are filled up with padding behind their end.
                let whole = found.len() == 12 || found.last() == Some(&1);
                let good = whole && *found == expected[1..=found.len()];
                self.that(good, &format!("{name} gives {found:?}, expected {expected:?}"));
            }
        }
    }

    fn transformer(&mut self, norm_first: bool) {
        let stored = self.stored("forward");
        let config = TransformerConfig {
            width: 24,
            heads: 3,
            encoder_layers: 2,
            decoder_layers: 2,
            hidden: 40,
            activation: Activation::Relu,
            order: if norm_first { Order::PreNorm } else { Order::PostNorm },
            dropout: 0.0,
        };
        let model = Transformer::new(&config, &mut Fresh::zeros(self.device));
        load(self.path.join("model.safetensors"), &model).expect("the model loads");
        let [source, target] = ["src", "tgt"].map(|name| stored.tensor(name, self.device).tracked());
        let ignored = stored.values("src_key_padding_mask");
        let time = stored.sizes("src")[1];
        let lengths: Vec<usize> =
            ignored.chunks(time).map(|row| row.iter().filter(|&&ignored| ignored == 0.0).count()).collect();
        let keep = Mask::lengths(&lengths, time, self.device).expect("valid lengths");
        let memory = model.encode(&source, &keep);
        let found = model.decode(&target, &Mask::causal(), &memory, &keep);
        self.value("out", &found.to_f64(), &stored.values("out"));
        let loss = (found * stored.tensor("loss_weights", self.device)).sum(..);
        self.value("loss", &loss.to_f64(), &stored.values("loss"));
        let gradients = loss.backward();
        for (name, leaf) in [("grad_src", &source), ("grad_tgt", &target)] {
            let found = gradients.of(leaf).expect("it matters").to_f64();
            self.value(name, &found, &stored.values(name));
        }
        self.gradients(&named_params(&model), &gradients, &stored, None);
    }
}

/// Stored ids, row by row, without what a mask hides.
fn rows(stored: &Stored, name: &str, mask: Option<&str>) -> Vec<Vec<u32>> {
    let time = stored.sizes(name)[1];
    let values = stored.values(name);
    let mask = mask.map_or(vec![1.0; values.len()], |mask| stored.values(mask));
    let kept = |(row, mask): (&[f64], &[f64])| {
        row.iter().zip(mask).filter(|(_, kept)| **kept == 1.0).map(|(&id, _)| id as u32).collect()
    };
    values.chunks(time).zip(mask.chunks(time)).map(kept).collect()
}

/// Only what belongs to a token, not to padding.
fn of_tokens(batch: &Sequences, values: &[f64]) -> Vec<f64> {
    let kept: Vec<f64> = batch
        .spans
        .iter()
        .flat_map(|span| (0..batch.time()).map(|at| f64::from(span.contains(&at))))
        .collect();
    where_kept(values, &kept)
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |largest, x| largest.max(x.abs()))
}
