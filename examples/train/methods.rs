//! Every way of training by its name, and what is trained then.

use std::collections::BTreeMap;
use std::path::Path;

use engrad::adapters::{
    self, AdaLora, Adapted, BitFit, Dora, Ia3, IncreLora, LoHa, LoKr, Lora, Method, Mtlora, NormTuning, San,
    SanMode, Ssf, Start, Structure, TriAdaptLora, Update, Vera,
};
use engrad::nn::{Module, Pattern, freeze, named_params};
use engrad::train::{Group, Trainable};
use engrad::{Result, Tensor, nn};

use super::options::Settings;

/// A way of training.
pub struct Named {
    pub name: &'static str,
    make: fn(&Settings, u64) -> Way,
}

/// What a name stands for.
enum Way {
    /// Every parameter.
    Full,
    /// Only what stands on the model, such as pooler and head.
    Head,
    Adapter(Box<dyn Method>),
}

fn adapter(method: impl Method + 'static) -> Way {
    Way::Adapter(Box::new(method))
}

fn lora(settings: &Settings, start: Lora) -> Lora {
    Lora { alpha: settings.alpha, dropout: settings.adapter_dropout, seed: settings.seed, ..start }
}

fn mtlora(settings: &Settings, structure: Structure) -> Way {
    adapter(Mtlora {
        alpha: settings.alpha,
        dropout: settings.adapter_dropout,
        seed: settings.seed,
        ..Mtlora::new(structure, settings.rank as usize)
    })
}

const fn named(name: &'static str, make: fn(&Settings, u64) -> Way) -> Named {
    Named { name, make }
}

/// Every way. `steps` is the length of the run, which methods that change ranks need to know.
pub const METHODS: [Named; 22] = [
    named("full", |_, _| Way::Full),
    named("head", |_, _| Way::Head),
    named("lora", |s, _| adapter(lora(s, Lora::new(s.rank as usize)))),
    named("lora-plus", |s, _| adapter(lora(s, Lora::plus(s.rank as usize)))),
    named("rslora", |s, _| adapter(Lora { rank_stabilised: true, ..lora(s, Lora::new(s.rank as usize)) })),
    named("pissa", |s, _| adapter(Lora { start: Start::Pissa, ..lora(s, Lora::new(s.rank as usize)) })),
    named("dora", |s, _| adapter(Dora(lora(s, Lora::new(s.rank as usize))))),
    named("adalora", |s, steps| {
        let first = (3 * s.rank as usize).div_ceil(2);
        adapter(AdaLora {
            alpha: s.alpha,
            dropout: s.adapter_dropout,
            seed: s.seed,
            orthogonality: 0.1,
            final_steps: 2 * steps / 5,
            interval: 10.min(steps / 20).max(1),
            ..AdaLora::new(first, s.rank as usize, steps)
        })
    }),
    named("mtlora-shim", |s, _| mtlora(s, Structure::Shim)),
    named("mtlora-icfm", |s, _| mtlora(s, Structure::Icfm)),
    named("mtlora-ctcm", |s, _| mtlora(s, Structure::Ctcm)),
    named("mtlora-dtsm", |s, _| mtlora(s, Structure::Dtsm)),
    named("triadaptlora", |s, steps| {
        let method = TriAdaptLora::new(s.rank as usize, steps);
        adapter(TriAdaptLora { alpha: s.alpha, dropout: s.adapter_dropout, seed: s.seed, ..method })
    }),
    named("increlora", |s, steps| {
        let method = IncreLora::new(s.rank as usize, steps);
        adapter(IncreLora { alpha: s.alpha, dropout: s.adapter_dropout, seed: s.seed, ..method })
    }),
    named("san", |_, _| adapter(San::new(SanMode::Both))),
    named("vera", |s, _| {
        adapter(Vera { dropout: s.adapter_dropout, seed: s.seed, ..Vera::new(s.rank as usize) })
    }),
    named("loha", |s, _| adapter(LoHa { alpha: s.alpha, seed: s.seed, ..LoHa::new(s.rank as usize) })),
    named("lokr", |s, _| adapter(LoKr { alpha: s.alpha, seed: s.seed, ..LoKr::new(s.rank as usize) })),
    named("ia3", |_, _| adapter(Ia3::new(["intermediate.dense", "mlp.c_proj", "mlp.down_proj"]))),
    named("ssf", |s, _| adapter(Ssf { seed: s.seed, ..Ssf::default() })),
    named("bitfit", |_, _| adapter(BitFit)),
    named("norms", |_, _| adapter(NormTuning)),
];

/// What is trained: a model with adapters, or the model itself.
pub enum Subject<'a> {
    Adapted(Adapted),
    Whole(&'a dyn Module),
}

impl<'a> Subject<'a> {
    /// Prepares `model` for the method of the settings. `beside` are patterns of what is new or stands last,
    /// and is trained in every case.
    ///
    /// **Errors** when the method does not fit the model.
    pub fn new(
        model: &'a dyn Module,
        settings: &Settings,
        targets: &str,
        beside: &[&str],
        steps: u64,
    ) -> Result<Subject<'a>> {
        let method = METHODS.iter().find(|method| method.name == settings.method);
        let method = method.expect("the command line knows only these names");
        match (method.make)(settings, steps) {
            Way::Full => Ok(Subject::Whole(model)),
            Way::Head => {
                freeze(model, "*")?;
                let patterns: Vec<Pattern> = beside.iter().map(|pattern| Pattern::new(pattern)).collect();
                for (path, param) in named_params(model) {
                    if patterns.iter().any(|pattern| pattern.matches(&path)) {
                        param.unfreeze();
                    }
                }
                Ok(Subject::Whole(model))
            }
            Way::Adapter(method) => {
                let mut adapted =
                    adapters::attach(model, settings.targets.as_deref().unwrap_or(targets), method)?;
                for pattern in beside {
                    adapted = adapted.also_train(pattern)?;
                }
                Ok(Subject::Adapted(adapted))
            }
        }
    }

    /// Saves what was trained: an adapter in PEFT's layout, or all parameters.
    ///
    /// **Errors** when the directory cannot be written.
    pub fn save(&self, directory: &Path) -> Result<()> {
        std::fs::create_dir_all(directory)
            .map_err(|source| engrad::Error::Io { path: directory.into(), source })?;
        match self {
            Subject::Adapted(adapted) => adapted.save(directory),
            Subject::Whole(model) => nn::save(directory.join("model.safetensors"), *model),
        }
    }

    /// How many numbers are trained.
    pub fn count(&self) -> usize {
        self.groups().iter().flat_map(|group| &group.params).map(|(_, param)| param.count()).sum()
    }

    /// The present rank of each site, where ranks change.
    pub fn ranks(&self) -> Vec<usize> {
        match self {
            Subject::Adapted(adapted) => adapted.ranks(),
            Subject::Whole(_) => Vec::new(),
        }
    }
}

/// Gives a fresh model what [`Subject::save`] kept.
///
/// **Errors** when the files do not fit.
pub fn load(model: &dyn Module, directory: &Path) -> Result<()> {
    match directory.join("adapter_config.json").exists() {
        true => adapters::load(model, directory).map(drop),
        false => nn::load(directory.join("model.safetensors"), model),
    }
}

impl Trainable for Subject<'_> {
    fn groups(&self) -> Vec<Group> {
        match self {
            Subject::Adapted(adapted) => adapted.groups(),
            Subject::Whole(model) => {
                let params =
                    named_params(*model).into_iter().filter(|(_, param)| param.is_trainable()).collect();
                vec![Group::of(params)]
            }
        }
    }

    fn penalty(&self) -> Option<Tensor> {
        match self {
            Subject::Adapted(adapted) => adapted.penalty(),
            Subject::Whole(_) => None,
        }
    }

    fn after_update(&mut self, update: &Update) -> Result<()> {
        match self {
            Subject::Adapted(adapted) => adapted.after_update(update),
            Subject::Whole(_) => Ok(()),
        }
    }

    fn state(&self) -> BTreeMap<String, Tensor> {
        match self {
            Subject::Adapted(adapted) => adapted.state(),
            Subject::Whole(_) => BTreeMap::new(),
        }
    }

    fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        match self {
            Subject::Adapted(adapted) => adapted.restore(state),
            Subject::Whole(_) => Ok(()),
        }
    }
}
