//! The adapters under test: every method of the library's list with its usual settings, and variants.
//!
//! A method in `src/adapters/list.rs` is a subject, and inherits every law, without a line here.
#![allow(dead_code)]

use engrad::adapters::{
    self, AdaLora, Adapted, BitFit, BlockStart, Ia3, IncreLora, LoKr, Lora, METHODS, Method, Mtlora,
    RankGrowth, San, SanMap, SanMode, ScaleMode, Ssf, Start, Structure, Targets, TransformStart,
    TriAdaptLora, Usual, Variant,
};
use engrad::nn::{Classifier, EncoderConfig};
use engrad::{Device, Rng, Tensor, inference};

use super::{common, tiny};

/// A method under test.
pub struct Subject {
    pub name: &'static str,
    pub targets: Targets,
    make: Box<dyn Fn() -> Box<dyn Method>>,
    /// How many numbers it trains, where a formula says so.
    pub count: Option<Count>,
}

/// How many numbers a method trains.
#[derive(Clone, Copy)]
pub enum Count {
    /// In a layer of given inputs and outputs.
    Layer(fn(usize, usize) -> usize),
    All(usize),
}

/// 8 -> 8, 8 -> 8 and 8 -> 12, in both layers.
pub const SITES: &str = "*.{query,value,intermediate.dense}";
/// The four sites 8 -> 8.
pub const SQUARE: &str = "*.attention.self.{query,value}";
/// The rank, and the steps of a run, that the list's methods are made for.
pub const RANK: usize = 3;
pub const STEPS: u64 = 12;

/// What a head for two classes has.
pub const HEAD: usize = 2 * 8 + 2;

/// Every subject.
pub fn all() -> Vec<Subject> {
    // What stands before a text has laws of its own in `virtual_tokens.rs`.
    let virtual_tokens = ["prompt-tuning", "p-tuning", "prefix-tuning"];
    let in_layers = METHODS.iter().filter(|listed| !virtual_tokens.contains(&listed.name));
    let listed = in_layers.map(|listed| Subject {
        name: listed.name,
        // Methods that can sit in any linear layer are tested at the same ones.
        targets: listed.targets.filter(|_| listed.name == "norms").unwrap_or(SITES).into(),
        make: Box::new(|| listed.usual(&Usual::new(RANK, STEPS))),
        count: count(listed.name),
    });
    listed.chain(variants()).collect()
}

/// The subject of a name.
pub fn named(name: &str) -> Subject {
    all().into_iter().find(|subject| subject.name == name).unwrap_or_else(|| panic!("no {name}"))
}

/// Runs a law for every subject, and says which one breaks it.
pub fn every(law: impl Fn(&Subject)) {
    for subject in all() {
        println!("{}", subject.name);
        law(&subject);
    }
}

/// How many numbers a method of the list trains in a layer.
fn count(name: &str) -> Option<Count> {
    Some(Count::Layer(match name {
        "lora" | "lora-plus" | "rslora" | "pissa" => |i, o| 3 * (i + o),
        "dora" => |i, o| 3 * (i + o) + o,
        "mtlora-shim" | "mtlora-icfm" => |i, o| 3 * (i + o) + 9,
        "mtlora-ctcm" | "mtlora-dtsm" => |i, o| 3 * (i + o) + 18,
        "triadaptlora" => |i, o| i + o + 2,
        "adalora" => |i, o| 5 * (i + o) + 5,
        "loha" => |i, o| 2 * 3 * (i + o),
        "vera" => |_, o| o + 3,
        "san" | "bitfit" => |_, o| o,
        // The inputs of the feed-forward layer; queries and values are as wide as their inputs.
        "ia3" => |_, o| o,
        "ssf" => |_, o| 2 * o,
        "bottleneck" => |_, o| 2 * 24 * o + 24 + o,
        "norms" => return Some(Count::All(5 * 16)),
        _ => return None,
    }))
}

/// How far a fresh adapter's outputs may be from the base's. Some compute the same in another order of
/// rounding; SSF starts beside it on purpose.
pub fn fresh_distance(name: &str) -> f64 {
    match name {
        "pissa" | "increlora" | "increlora, growing" => 1e-5,
        "dora" => 1e-6,
        "ssf" => 1.0,
        _ => 0.0,
    }
}

fn variant<M: Method + Clone + 'static>(
    name: &'static str,
    targets: impl Into<Targets>,
    method: M,
    count: Count,
) -> Subject {
    Subject {
        name,
        targets: targets.into(),
        make: Box::new(move || Box::new(method.clone())),
        count: Some(count),
    }
}

/// A TriAdaptLoRA that grows every second step and has a penalty.
pub fn growing() -> TriAdaptLora {
    TriAdaptLora { interval: 2, increment: Some(2), orthogonality: 0.1, ..TriAdaptLora::new(4, STEPS) }
}

fn variants() -> Vec<Subject> {
    use Count::{All, Layer};
    let shim = || Mtlora::new(Structure::Shim, 3);
    let both = || San::new(SanMode::Both);
    let vit = [
        "word_embeddings",
        "query",
        "key",
        "value",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    ];
    vec![
        variant(
            "lora, rank-stabilised, gaussian",
            SITES,
            Lora { rank_stabilised: true, start: Start::Gaussian, alpha: 5.0, seed: 9, ..Lora::new(2) },
            Layer(|i, o| 2 * (i + o)),
        ),
        variant("lora with dropout", SITES, Lora { dropout: 0.5, ..Lora::new(1) }, Layer(|i, o| i + o)),
        variant(
            "lora with embeddings",
            Targets::from(["query", "value", "word_embeddings"]).with_embeddings(),
            Lora::new(3),
            All(4 * 3 * 16 + 3 * (12 + 8)),
        ),
        variant(
            "mtlora, kaiming",
            SQUARE,
            Mtlora { start: TransformStart::Kaiming, ..Mtlora::new(Structure::Ctcm, 3) },
            All(4 * (3 * 16 + 18)),
        ),
        variant(
            "mtlora, zero T",
            SQUARE,
            Mtlora { start: TransformStart::ZeroT, ..shim() },
            All(4 * (3 * 16 + 9)),
        ),
        variant(
            "mtlora, fused",
            SQUARE,
            Mtlora { fused: vec![("query".into(), 2), ("value".into(), 2)], ..shim() },
            All(4 * (6 * 8 + 3 * 8 + 36)),
        ),
        variant("triadaptlora, growing", SQUARE, growing(), All(4 * (16 + 2))),
        variant(
            "triadaptlora, half identity, current rank",
            SQUARE,
            TriAdaptLora {
                start: BlockStart::HalfIdentity,
                scale_mode: ScaleMode::CurrentRank,
                first_rank: 2,
                ..growing()
            },
            All(4 * (2 * 16 + 8)),
        ),
        variant(
            "triadaptlora, single",
            SQUARE,
            TriAdaptLora {
                variant: Variant::Single,
                start: BlockStart::Single,
                first_rank: 2,
                growth: RankGrowth::Nonlinear,
                ..growing()
            },
            All(4 * (2 * 16 + 6)),
        ),
        variant("adalora, falling", SQUARE, AdaLora::new(4, 2, STEPS), All(4 * (4 * 16 + 4))),
        variant(
            "increlora, growing",
            SQUARE,
            IncreLora { interval: 2, increment: Some(1), ..IncreLora::new(3, STEPS) },
            All(4 * 2 * 16 + 4),
        ),
        // 8 is cut into 2·4, 12 into 3·4; by the factor 4 into 4·2 and 4·3.
        variant("lokr of rank 2", SITES, LoKr::new(2), Layer(|_, o| o / 4 * 2 + 16)),
        variant("lokr, D a product", SITES, LoKr::new(1), Layer(|_, o| o / 4 * 2 + 8)),
        variant(
            "lokr, both products",
            SITES,
            LoKr { decompose_both: true, factor: Some(4), ..LoKr::new(1) },
            Layer(|_, o| 12 + usize::from(o == 12)),
        ),
        variant(
            "ia3 with a feed-forward layer",
            "*.layer.*.{self.value,intermediate.dense}",
            Ia3::new(["intermediate.dense"]),
            All(2 * (8 + 8)),
        ),
        variant("ssf from nothing", SITES, Ssf { deviation: 0.0, seed: 0 }, Layer(|_, o| 2 * o)),
        variant("san on every layer", "*.layer.*", both(), All(2 * (5 * 8 + 12))),
        variant(
            "san with shift and synapse scale",
            "*.layer.*",
            San { shift: true, synapse_scale: true, ..both() },
            All(2 * (2 * (5 * 8 + 12) + 8 + 8 + 12) + 3 * 8),
        ),
        variant("san with shift", SITES, San { shift: true, ..both() }, Layer(|_, o| 2 * o)),
        variant("san nt", "*.layer.*", San::new(SanMode::Nt), All(2 * (5 * 8 + 12))),
        // The last layer's γ and those of query and key scale nothing.
        variant("san sp", "*.layer.*", San::new(SanMode::Sp), All(2 * (2 * 8 + 12) + 8)),
        variant(
            "san vit_base",
            Targets::from(vit).with_embeddings(),
            San { map: SanMap::VitBase, ..both() },
            All(8 + 2 * (5 * 8 + 12)),
        ),
        variant("bitfit everywhere", "bert.*", BitFit, All(8 + 2 * (5 * 8 + 12 + 2 * 8) + 8)),
    ]
}

impl Subject {
    /// Attached, fresh, with nothing trained beside it.
    pub fn bare(&self, model: &Classifier) -> Adapted {
        adapters::attach(model, self.targets.clone(), self.method())
            .unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// Attached, fresh, with the head trained beside it.
    pub fn fresh(&self, model: &Classifier) -> Adapted {
        self.bare(model).also_train("classifier.*").expect("the model has a head")
    }

    /// The same, no longer fresh.
    pub fn moved(&self, model: &Classifier) -> Adapted {
        let tuned = self.fresh(model);
        scatter(&tuned, 9);
        tuned
    }

    /// Whether it is a change of weights, which can be merged.
    pub fn merges(&self) -> bool {
        self.name != "bottleneck"
    }

    /// Merges what can be merged; the rest is refused.
    pub fn merge(&self, tuned: &Adapted) {
        match tuned.merge() {
            Ok(()) => assert!(self.merges(), "{}", self.name),
            Err(error) => {
                assert!(!self.merges(), "{}: {error}", self.name);
                assert!(error.to_string().contains("query: adapter"), "{error}");
                assert!(error.to_string().contains("cannot be merged"), "{error}");
            }
        }
    }

    pub fn method(&self) -> Box<dyn Method> {
        (self.make)()
    }
}

/// Gives all that is trained values that are nowhere special.
pub fn scatter(tuned: &Adapted, seed: u64) {
    let mut rng = Rng::seeded(seed);
    for (_, param) in tuned.trainable() {
        let noise = Tensor::normal(0.2, param.sizes(), &mut rng, &param.device());
        param.set(&(param.value() + noise));
    }
}

/// A classifier of two layers, in which every method finds what it adapts.
pub fn model(device: &Device) -> Classifier {
    tiny::classifier(&EncoderConfig { num_hidden_layers: 2, ..tiny::config() }, device)
}

/// Its scores for the tiny batch.
pub fn output(model: &Classifier) -> Vec<f64> {
    inference(|| model.forward(&tiny::batch(model).0)).to_f64()
}

/// **Panics** when values differ by more than `relative` of the largest, or of 1.
#[track_caller]
pub fn near(found: &[f64], expected: &[f64], relative: f64, what: &str) {
    let allowed = relative * common::largest(expected).max(1.0);
    common::compare(found, expected, allowed).unwrap_or_else(|problem| panic!("{what}: {problem}"));
}
