//! Modules: names, freezing, patterns, summaries, and what loading accepts. Read next: `encoder.rs`.

mod common;
mod tiny;

use std::collections::BTreeMap;

use engrad::nn::{self, Classifier, Encoder, Module, Pattern, files, named_params, summary};
use engrad::{Device, Rng, Tensor};
use half::{bf16, f16};
use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView};
use tiny::encoder;

fn paths(model: &dyn Module) -> Vec<String> {
    named_params(model).into_iter().map(|(path, _)| path).collect()
}

const PATHS: [&str; 23] = [
    "embeddings.word_embeddings.weight",
    "embeddings.position_embeddings.weight",
    "embeddings.token_type_embeddings.weight",
    "embeddings.LayerNorm.weight",
    "embeddings.LayerNorm.bias",
    "encoder.layer.0.attention.self.query.weight",
    "encoder.layer.0.attention.self.query.bias",
    "encoder.layer.0.attention.self.key.weight",
    "encoder.layer.0.attention.self.key.bias",
    "encoder.layer.0.attention.self.value.weight",
    "encoder.layer.0.attention.self.value.bias",
    "encoder.layer.0.attention.output.dense.weight",
    "encoder.layer.0.attention.output.dense.bias",
    "encoder.layer.0.attention.output.LayerNorm.weight",
    "encoder.layer.0.attention.output.LayerNorm.bias",
    "encoder.layer.0.intermediate.dense.weight",
    "encoder.layer.0.intermediate.dense.bias",
    "encoder.layer.0.output.dense.weight",
    "encoder.layer.0.output.dense.bias",
    "encoder.layer.0.output.LayerNorm.weight",
    "encoder.layer.0.output.LayerNorm.bias",
    "pooler.dense.weight",
    "pooler.dense.bias",
];

#[test]
fn parameters_are_called_as_in_published_files() {
    assert_eq!(paths(&encoder(&Device::Cpu)), PATHS);
    let headed = paths(&tiny::classifier(&tiny::config(), &Device::Cpu));
    let mut expected: Vec<String> = PATHS.iter().map(|path| format!("bert.{path}")).collect();
    expected.extend(["classifier.weight".to_string(), "classifier.bias".to_string()]);
    assert_eq!(headed, expected);
}

#[test]
fn freezing_and_unfreezing_follow_the_pattern() {
    let model = encoder(&Device::Cpu);
    let trained =
        || summary(&model).rows.into_iter().filter(|row| row.2).map(|row| row.0).collect::<Vec<_>>();
    assert_eq!(nn::freeze(&model, "*").unwrap(), 23);
    assert!(trained().is_empty());
    assert_eq!(nn::unfreeze(&model, "*.{query,value}.bias").unwrap(), 2);
    assert_eq!(
        trained(),
        ["encoder.layer.0.attention.self.query.bias", "encoder.layer.0.attention.self.value.bias"]
    );
    assert_eq!(nn::freeze(&model, "*query*").unwrap(), 2);
    assert_eq!(trained(), ["encoder.layer.0.attention.self.value.bias"]);
    let error = nn::freeze(&model, "*.q_proj.*").unwrap_err().to_string();
    assert!(error.contains("*.q_proj.*") && error.contains(PATHS[0]), "{error}");
}

#[test]
fn a_frozen_parameter_keeps_its_value_and_receives_no_gradient() {
    let model = tiny::classifier(&tiny::config(), &Device::Cpu);
    nn::freeze(&model, "bert.*").unwrap();
    let gradients = tiny::loss(&model).backward();
    assert_eq!(gradients.len(), 2, "the head's weight and bias");
}

#[test]
fn a_summary_counts_as_peft_prints_it() {
    let model = encoder(&Device::Cpu);
    nn::freeze(&model, "*").unwrap();
    nn::unfreeze(&model, "pooler.*").unwrap();
    let summary = summary(&model);
    // Tables 20 rows of 8, norms 3 of 16, five 8x8 layers with a bias, up 8x12 and down 12x8.
    let total = 20 * 8 + 3 * 16 + 5 * (64 + 8) + (96 + 12) + (96 + 8);
    assert_eq!((summary.trainable(), summary.total()), (72, total));
    assert_eq!(summary.totals(), "trainable params: 72 || all params: 780 || trainable%: 9.2308");
    let text = summary.to_string();
    assert!(text.contains("pooler.dense.weight") && text.contains("[8, 8]  trained"), "{text}");
    let large =
        nn::Summary { rows: vec![("a".into(), vec![1_000, 22_713], true), ("b".into(), vec![5], false)] };
    assert!(large.totals().starts_with("trainable params: 22,713,000 || all params: 22,713,005 ||"));
}

/// The definition: a star stands for any run of letters, tried at every length.
fn naive(pattern: &[char], path: &[char]) -> bool {
    match pattern.first() {
        None => path.is_empty(),
        Some('*') => (0..=path.len()).any(|skipped| naive(&pattern[1..], &path[skipped..])),
        Some(letter) => path.first() == Some(letter) && naive(&pattern[1..], &path[1..]),
    }
}

proptest! {
    #[test]
    fn patterns_match_as_the_definition_does(pattern in "[ab.*]{0,8}", path in "[ab.]{0,10}") {
        let letters = |text: &str| text.chars().collect::<Vec<char>>();
        prop_assert_eq!(Pattern::new(&pattern).matches(&path), naive(&letters(&pattern), &letters(&path)));
    }

    #[test]
    fn braces_stand_for_each_of_their_choices(
        before in "[ab.*]{0,3}", choices in prop::collection::vec("[ab.*]{0,3}", 1..4), after in "[ab.*]{0,3}",
        path in "[ab.]{0,8}",
    ) {
        let together = Pattern::new(&format!("{before}{{{}}}{after}", choices.join(",")));
        let apart = choices.iter().any(|choice| Pattern::new(&format!("{before}{choice}{after}")).matches(&path));
        prop_assert_eq!(together.matches(&path), apart);
    }

    #[test]
    fn any_text_is_a_pattern(pattern in "\\PC{0,20}", path in "\\PC{0,20}") {
        Pattern::new(&pattern).matches(&path);
        if !pattern.contains(['*', '{']) {
            prop_assert!(Pattern::new(&pattern).matches(&pattern));
        }
    }
}

#[test]
fn a_pattern_of_many_braces_is_not_multiplied_out() {
    // 2^64 texts, if it were.
    let pattern = Pattern::new(&"{a,*b}".repeat(64));
    assert!(pattern.matches(&"ab".repeat(32)));
    assert!(!pattern.matches(&"a".repeat(65)) && !pattern.matches("a"));
}

#[test]
fn saving_and_loading_restores_every_bit() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for device in common::devices() {
        let (one, other) =
            (encoder(&device), Encoder::new(&tiny::config(), &mut Rng::seeded(2), &device).unwrap());
        files::save(file.path(), &one).unwrap();
        files::load(file.path(), &other).unwrap();
        assert_eq!(tiny::state(&other), tiny::state(&one));
    }
}

/// A model's tensors, changed and written to a file.
fn altered(
    model: &dyn Module,
    change: impl FnOnce(&mut BTreeMap<String, Tensor>),
) -> tempfile::NamedTempFile {
    let mut tensors = named_params(model).into_iter().map(|(name, param)| (name, param.value())).collect();
    change(&mut tensors);
    let file = tempfile::NamedTempFile::new().unwrap();
    files::write(file.path(), &tensors, Default::default()).unwrap();
    file
}

#[test]
fn everything_that_does_not_fit_is_listed_at_once_and_nothing_is_loaded() {
    let model = encoder(&Device::Cpu);
    let file = altered(&encoder(&Device::Cpu), |tensors| {
        tensors.remove("pooler.dense.bias");
        tensors.remove("encoder.layer.0.output.dense.weight");
        tensors.insert("cls.predictions.bias".into(), Tensor::zeros([12], &Device::Cpu));
        tensors.insert("embeddings.LayerNorm.weight".into(), Tensor::zeros([9], &Device::Cpu));
    });
    let before = tiny::state(&model);
    let error = files::load(file.path(), &model).unwrap_err().to_string();
    for part in [
        "missing: pooler.dense.bias [8]",
        "missing: encoder.layer.0.output.dense.weight [8, 12]",
        "unexpected: cls.predictions.bias [12]",
        "misshapen: embeddings.LayerNorm.weight is [9] in the file, [8] in the model",
    ] {
        assert!(error.contains(part), "{part} is not in {error}");
    }
    assert_eq!(tiny::state(&model), before);
}

#[test]
fn older_names_load_too() {
    let renames: [fn(&str) -> String; 3] = [
        |name| {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        },
        |name| format!("bert.{name}"),
        |name| format!("bert.{}", name.replace("LayerNorm.weight", "LayerNorm.gamma")),
    ];
    for rename in renames {
        let one = encoder(&Device::Cpu);
        let file = altered(&one, |tensors| {
            *tensors =
                std::mem::take(tensors).into_iter().map(|(name, tensor)| (rename(&name), tensor)).collect();
        });
        let other = Encoder::new(&tiny::config(), &mut Rng::seeded(2), &Device::Cpu).unwrap();
        files::load(file.path(), &other).unwrap();
        assert_eq!(tiny::state(&other), tiny::state(&one));
    }
    // A bare encoder's names below a head.
    let one = tiny::classifier(&tiny::config(), &Device::Cpu);
    let file = altered(&one, |tensors| {
        let bare = |name: String| name.strip_prefix("bert.").map_or(name.clone(), String::from);
        *tensors = std::mem::take(tensors).into_iter().map(|(name, tensor)| (bare(name), tensor)).collect();
    });
    files::load(file.path(), &one).unwrap();
}

#[test]
fn half_and_double_precision_and_integers_are_read() {
    let values = [1.5, -2.0, 0.25];
    let bytes = |dtype| -> Vec<u8> {
        values
            .iter()
            .flat_map(|&x: &f64| match dtype {
                Dtype::F64 => x.to_le_bytes().to_vec(),
                Dtype::F32 => (x as f32).to_le_bytes().to_vec(),
                Dtype::F16 => f16::from_f64(x).to_le_bytes().to_vec(),
                Dtype::BF16 => bf16::from_f64(x).to_le_bytes().to_vec(),
                _ => (x as i64).to_le_bytes().to_vec(),
            })
            .collect()
    };
    let types =
        [("d", Dtype::F64), ("f", Dtype::F32), ("h", Dtype::F16), ("b", Dtype::BF16), ("i", Dtype::I64)];
    let all: Vec<(&str, Dtype, Vec<u8>)> =
        types.iter().map(|&(name, dtype)| (name, dtype, bytes(dtype))).collect();
    let views =
        all.iter().map(|(name, dtype, bytes)| (*name, TensorView::new(*dtype, vec![3], bytes).unwrap()));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), safetensors::serialize(views, None).unwrap()).unwrap();
    for device in common::devices() {
        let read = files::read(file.path(), &device).unwrap().tensors;
        assert_eq!(read.keys().collect::<Vec<_>>(), ["b", "d", "f", "h"], "integers are buffers");
        assert!(read.values().all(|tensor| tensor.to_f64() == values));
    }
}

#[test]
fn every_number_of_16_bits_is_read_as_what_it_stands_for() {
    let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    type Widened = fn(u16) -> f32;
    let types: [(Dtype, Widened); 2] = [
        (Dtype::F16, |bits| f16::from_bits(bits).to_f32()),
        (Dtype::BF16, |bits| bf16::from_bits(bits).to_f32()),
    ];
    for (dtype, widened) in types {
        let view = TensorView::new(dtype, vec![1 << 16], &bytes).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), safetensors::serialize([("x", view)], None).unwrap()).unwrap();
        let read = files::read(file.path(), &Device::Cpu).unwrap().tensors["x"].to_vec();
        for (bits, x) in (0..=u16::MAX).zip(read) {
            let expected = widened(bits);
            let same = x.to_bits() == expected.to_bits() || (x.is_nan() && expected.is_nan());
            assert!(same, "{dtype:?} {bits:#06x} is {x}, not {expected}");
        }
    }
}

#[test]
fn a_classifier_has_a_pooler_even_where_its_encoder_has_none() {
    let bare = encoder(&Device::Cpu).without_pooler();
    let model = Classifier::new(bare, 2, &mut Rng::seeded(1));
    assert_eq!(model.forward(&tiny::batch(&model).0).sizes(), [4, 2]);
    assert_eq!(paths(&model).len(), PATHS.len() + 2);
}
