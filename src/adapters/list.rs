//! The list of methods: what files name, what can be asked for by name, what the laws are tested on.
//!
//! A new method is a file beside this one and a line in [`METHODS`].

use serde_json::Value;

use super::settings::Settings;
use super::{
    AdaLora, BitFit, Bottleneck, Dora, Ia3, IncreLora, LoHa, LoKr, Lora, Method, Mtlora, NormTuning, PTuning,
    PrefixTuning, PromptTuning, San, SanMode, Ssf, Start, Structure, TriAdaptLora, Vera,
};
use crate::error::{Error, Result};

/// A method as lists know it.
pub struct Listed {
    /// Its name in tables and on command lines.
    pub name: &'static str,
    /// The `peft_type` of its files.
    pub peft_type: &'static str,
    /// The pattern of the modules that it is made for, where these are not the linear layers that the
    /// caller prefers.
    pub targets: Option<&'static str>,
    usual: fn(&Usual) -> Box<dyn Method>,
    read: fn(&Settings) -> Result<Box<dyn Method>>,
}

/// What a method is told when it is asked for by name; each takes of it what it has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usual {
    /// The rank, and the mean rank to reach where ranks change.
    pub rank: usize,
    /// The update's weight: it is scaled by `alpha / rank`.
    pub alpha: f64,
    /// The probability with which an element of the adapter's input is dropped in training.
    pub dropout: f64,
    /// The length of the run.
    pub steps: u64,
    /// Draws the starting values.
    pub seed: u64,
}

/// Norms, by the names that BERT, GPT-2, BART, T5 and Llama give them.
const NORMS: &str = "{*LayerNorm,*layer_norm,*ln_1,*ln_2,*ln_f,*layernorm,*norm}";

/// What IA³ scales, by the names that BERT, GPT-2 and Llama give it; the same as PEFT's.
const KEYS_VALUES_FEED_FORWARD: &str =
    "{*.key,*.value,*.output.dense,*.c_attn,*.mlp.c_proj,*.k_proj,*.v_proj,*.down_proj}";

/// All that stands in blocks, for what scales a layer's outputs and so the inputs of the next.
const BLOCKS: &str = "{*.layer.*,*.h.*,*.layers.*,*.block.*}";

/// Every method. Several may write files of one kind; the first of them reads these.
pub const METHODS: &[Listed] = &[
    line(
        "lora",
        "LORA",
        |usual| lora(usual).into(),
        |config| match config.flag("use_dora")? {
            true => boxed(Dora::from_config(config)),
            false => boxed(Lora::from_config(config)),
        },
    ),
    line(
        "lora-plus",
        "LORA",
        |usual| Lora { up_rate: Lora::plus(1).up_rate, ..lora(usual) }.into(),
        read_lora,
    ),
    line("rslora", "LORA", |usual| Lora { rank_stabilised: true, ..lora(usual) }.into(), read_lora),
    line("pissa", "LORA", |usual| Lora { start: Start::Pissa, ..lora(usual) }.into(), read_lora),
    line("dora", "LORA", |usual| Dora(lora(usual)).into(), |config| boxed(Dora::from_config(config))),
    line("mtlora-shim", "MTLORA", |usual| mtlora(usual, Structure::Shim), read_mtlora),
    line("mtlora-icfm", "MTLORA", |usual| mtlora(usual, Structure::Icfm), read_mtlora),
    line("mtlora-ctcm", "MTLORA", |usual| mtlora(usual, Structure::Ctcm), read_mtlora),
    line("mtlora-dtsm", "MTLORA", |usual| mtlora(usual, Structure::Dtsm), read_mtlora),
    line(
        "triadaptlora",
        "TRIADAPTLORA",
        |&Usual { rank, alpha, dropout, steps, seed }| {
            TriAdaptLora { alpha, dropout, seed, ..TriAdaptLora::new(rank, steps) }.into()
        },
        |config| boxed(TriAdaptLora::from_config(config)),
    ),
    line(
        "adalora",
        "ADALORA",
        |&Usual { rank, alpha, dropout, steps, seed }| {
            let (final_steps, interval) = (2 * steps / 5, (steps / 20).clamp(1, 10));
            let method = AdaLora::new((3 * rank).div_ceil(2), rank, steps);
            AdaLora { alpha, dropout, seed, orthogonality: 0.1, final_steps, interval, ..method }.into()
        },
        |config| boxed(AdaLora::from_config(config)),
    ),
    line(
        "increlora",
        "INCRELORA",
        |&Usual { rank, alpha, dropout, steps, seed }| {
            IncreLora { alpha, dropout, seed, ..IncreLora::new(rank, steps) }.into()
        },
        |config| boxed(IncreLora::from_config(config)),
    ),
    line(
        "loha",
        "LOHA",
        |usual| LoHa { alpha: usual.alpha, seed: usual.seed, ..LoHa::new(usual.rank) }.into(),
        |config| boxed(LoHa::from_config(config)),
    ),
    line(
        "lokr",
        "LOKR",
        |usual| LoKr { alpha: usual.alpha, seed: usual.seed, ..LoKr::new(usual.rank) }.into(),
        |config| boxed(LoKr::from_config(config)),
    ),
    line(
        "vera",
        "VERA",
        |usual| Vera { dropout: usual.dropout, seed: usual.seed, ..Vera::new(usual.rank) }.into(),
        |config| boxed(Vera::from_config(config)),
    ),
    Listed {
        targets: Some(KEYS_VALUES_FEED_FORWARD),
        ..line(
            "ia3",
            "IA3",
            |_| Ia3::new(["output.dense", "mlp.c_proj", "down_proj"]).into(),
            |config| boxed(Ia3::from_config(config)),
        )
    },
    line(
        "ssf",
        "SSF",
        |usual| Ssf { seed: usual.seed, ..Ssf::default() }.into(),
        |config| boxed(Ssf::from_config(config)),
    ),
    Listed {
        targets: Some(BLOCKS),
        ..line("san", "SAN", |_| San::new(SanMode::Both).into(), |config| boxed(San::from_config(config)))
    },
    line(
        "bottleneck",
        "BOTTLENECK",
        |usual| Bottleneck { seed: usual.seed, ..Bottleneck::new(8 * usual.rank) }.into(),
        |config| boxed(Bottleneck::from_config(config)),
    ),
    line(
        "prompt-tuning",
        "PROMPT_TUNING",
        |usual| PromptTuning { seed: usual.seed, ..PromptTuning::new(usual.rank) }.into(),
        |config| boxed(PromptTuning::from_config(config)),
    ),
    line(
        "p-tuning",
        "P_TUNING",
        |usual| PTuning { seed: usual.seed, ..PTuning::new(usual.rank, 128) }.into(),
        |config| boxed(PTuning::from_config(config)),
    ),
    line(
        "prefix-tuning",
        "PREFIX_TUNING",
        |usual| PrefixTuning { seed: usual.seed, ..PrefixTuning::new(usual.rank) }.into(),
        |config| boxed(PrefixTuning::from_config(config)),
    ),
    line("bitfit", "BITFIT", |_| BitFit.into(), |_| boxed(Ok(BitFit))),
    Listed {
        targets: Some(NORMS),
        ..line("norms", "LN_TUNING", |_| NormTuning.into(), |_| boxed(Ok(NormTuning)))
    },
];

const fn line(
    name: &'static str,
    peft_type: &'static str,
    usual: fn(&Usual) -> Box<dyn Method>,
    read: fn(&Settings) -> Result<Box<dyn Method>>,
) -> Listed {
    Listed { name, peft_type, targets: None, usual, read }
}

fn lora(&Usual { rank, alpha, dropout, seed, .. }: &Usual) -> Lora {
    Lora { alpha, dropout, seed, ..Lora::new(rank) }
}

fn read_lora(config: &Settings) -> Result<Box<dyn Method>> {
    boxed(Lora::from_config(config))
}

fn mtlora(&Usual { rank, alpha, dropout, seed, .. }: &Usual, structure: Structure) -> Box<dyn Method> {
    Mtlora { alpha, dropout, seed, ..Mtlora::new(structure, rank) }.into()
}

fn read_mtlora(config: &Settings) -> Result<Box<dyn Method>> {
    boxed(Mtlora::from_config(config))
}

fn boxed<M: Method + 'static>(method: Result<M>) -> Result<Box<dyn Method>> {
    method.map(|method| Box::new(method) as Box<dyn Method>)
}

impl Listed {
    /// The method of a name.
    ///
    /// **Errors** when there is none, with all names.
    pub fn named(name: &str) -> Result<&'static Listed> {
        METHODS.iter().find(|listed| listed.name == name).ok_or_else(|| {
            let names: Vec<&str> = METHODS.iter().map(|listed| listed.name).collect();
            Error::Adapter(format!(
                "there is no method called {name:?}; expected one of {}",
                names.join(", ")
            ))
        })
    }

    /// The method with usual settings.
    pub fn usual(&self, usual: &Usual) -> Box<dyn Method> {
        (self.usual)(usual)
    }
}

impl Usual {
    /// A rank, alpha twice as large, no dropout, seed 0.
    pub fn new(rank: usize, steps: u64) -> Usual {
        Usual { rank, alpha: 2.0 * rank as f64, dropout: 0.0, steps, seed: 0 }
    }
}

/// The method that a configuration names.
///
/// **Errors** when it is not in the list, or its settings are malformed.
pub(super) fn method_of(config: &Settings) -> Result<Box<dyn Method>> {
    match config.get("peft_type").and_then(Value::as_str) {
        Some(name) => match METHODS.iter().find(|listed| listed.peft_type == name) {
            Some(listed) => (listed.read)(config),
            None => Err(Error::Adapter(format!("peft_type {name:?} is not implemented"))),
        },
        None => Err(Error::Adapter("peft_type is missing".into())),
    }
}
