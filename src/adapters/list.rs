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
    usual: fn(usize, u64) -> Box<dyn Method>,
    read: fn(&Settings) -> Result<Box<dyn Method>>,
}

/// Norms, by the names that BERT, GPT-2, BART, T5 and Llama give them.
const NORMS: &str = "{*LayerNorm,*layer_norm,*ln_1,*ln_2,*ln_f,*layernorm,*norm}";

/// Every method. Several may write files of one kind; the first of them reads these.
pub const METHODS: &[Listed] = &[
    line(
        "lora",
        "LORA",
        |rank, _| Lora::new(rank).into(),
        |config| match config.flag("use_dora")? {
            true => boxed(Dora::from_config(config)),
            false => boxed(Lora::from_config(config)),
        },
    ),
    line("lora+", "LORA", |rank, _| Lora::plus(rank).into(), |config| boxed(Lora::from_config(config))),
    line(
        "pissa",
        "LORA",
        |rank, _| Lora { start: Start::Pissa, ..Lora::new(rank) }.into(),
        |config| boxed(Lora::from_config(config)),
    ),
    line("dora", "LORA", |rank, _| Dora::new(rank).into(), |config| boxed(Dora::from_config(config))),
    line(
        "mtlora-shim",
        "MTLORA",
        |rank, _| Mtlora::new(Structure::Shim, rank).into(),
        |config| boxed(Mtlora::from_config(config)),
    ),
    line(
        "mtlora-icfm",
        "MTLORA",
        |rank, _| Mtlora::new(Structure::Icfm, rank).into(),
        |config| boxed(Mtlora::from_config(config)),
    ),
    line(
        "mtlora-ctcm",
        "MTLORA",
        |rank, _| Mtlora::new(Structure::Ctcm, rank).into(),
        |config| boxed(Mtlora::from_config(config)),
    ),
    line(
        "mtlora-dtsm",
        "MTLORA",
        |rank, _| Mtlora::new(Structure::Dtsm, rank).into(),
        |config| boxed(Mtlora::from_config(config)),
    ),
    line(
        "triadaptlora",
        "TRIADAPTLORA",
        |rank, steps| TriAdaptLora::new(rank, steps).into(),
        |config| boxed(TriAdaptLora::from_config(config)),
    ),
    line(
        "adalora",
        "ADALORA",
        |rank, steps| AdaLora::new((3 * rank).div_ceil(2), rank, steps).into(),
        |config| boxed(AdaLora::from_config(config)),
    ),
    line(
        "increlora",
        "INCRELORA",
        |rank, steps| IncreLora::new(rank, steps).into(),
        |config| boxed(IncreLora::from_config(config)),
    ),
    line("loha", "LOHA", |rank, _| LoHa::new(rank).into(), |config| boxed(LoHa::from_config(config))),
    line("lokr", "LOKR", |rank, _| LoKr::new(rank).into(), |config| boxed(LoKr::from_config(config))),
    // VeRA trains a vector per rank and layer, so its ranks are of another order.
    line("vera", "VERA", |rank, _| Vera::new(32 * rank).into(), |config| boxed(Vera::from_config(config))),
    line(
        "ia3",
        "IA3",
        |_, _| Ia3::new(["output.dense", "mlp.c_proj"]).into(),
        |config| boxed(Ia3::from_config(config)),
    ),
    line("ssf", "SSF", |_, _| Ssf::default().into(), |config| boxed(Ssf::from_config(config))),
    line("san", "SAN", |_, _| San::new(SanMode::Both).into(), |config| boxed(San::from_config(config))),
    line(
        "bottleneck",
        "BOTTLENECK",
        |rank, _| Bottleneck::new(8 * rank).into(),
        |config| boxed(Bottleneck::from_config(config)),
    ),
    line(
        "prompt-tuning",
        "PROMPT_TUNING",
        |rank, _| PromptTuning::new(rank).into(),
        |config| boxed(PromptTuning::from_config(config)),
    ),
    line(
        "p-tuning",
        "P_TUNING",
        |rank, _| PTuning::new(rank, 128).into(),
        |config| boxed(PTuning::from_config(config)),
    ),
    line(
        "prefix-tuning",
        "PREFIX_TUNING",
        |rank, _| PrefixTuning::new(rank).into(),
        |config| boxed(PrefixTuning::from_config(config)),
    ),
    line("bitfit", "BITFIT", |_, _| BitFit.into(), |_| boxed(Ok(BitFit))),
    Listed {
        targets: Some(NORMS),
        ..line("norms", "LN_TUNING", |_, _| NormTuning.into(), |_| boxed(Ok(NormTuning)))
    },
];

const fn line(
    name: &'static str,
    peft_type: &'static str,
    usual: fn(usize, u64) -> Box<dyn Method>,
    read: fn(&Settings) -> Result<Box<dyn Method>>,
) -> Listed {
    Listed { name, peft_type, targets: None, usual, read }
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

    /// The method with usual settings, for a mean rank and a run of so many steps.
    pub fn usual(&self, rank: usize, steps: u64) -> Box<dyn Method> {
        (self.usual)(rank, steps)
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
