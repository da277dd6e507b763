//! What is trained, by the name of the way: everything, the head alone, or an adapter of the library's list.
//! Read next: `compare/running.rs`, which trains it.

use engrad::Result;
use engrad::adapters::{self, Adapted, Listed, METHODS, Targets, Usual};
use engrad::nn::{Module, freeze, named_params, unfreeze};
use engrad::train::{Group, Trainable};

/// The ways without an adapter: all of the model, and what is new on it.
pub const BASELINES: [&str; 2] = ["full", "head"];

/// Every way: the two baselines first.
pub fn names() -> impl Iterator<Item = &'static str> {
    BASELINES.into_iter().chain(METHODS.iter().map(|listed| listed.name))
}

/// A model with adapters, or the model itself.
pub enum Subject<'a> {
    Adapted(Adapted),
    Whole(&'a dyn Module),
}

impl<'a> Subject<'a> {
    /// Prepares `model`. Adapters go where they are `asked` to, or where the method belongs, or else to
    /// `targets`. `beside` are patterns of what is new or stands last, and is trained in every case.
    ///
    /// **Errors** when there is no such way, or the method does not fit the model.
    pub fn new(
        model: &'a dyn Module,
        name: &str,
        usual: &Usual,
        asked: Option<&str>,
        targets: &str,
        beside: &[&str],
    ) -> Result<Subject<'a>> {
        match name {
            "full" => Ok(Subject::Whole(model)),
            "head" => {
                freeze(model, "*")?;
                for pattern in beside {
                    unfreeze(model, pattern)?;
                }
                Ok(Subject::Whole(model))
            }
            _ => {
                let listed = Listed::named(name)?;
                let targets = asked.or(listed.targets).unwrap_or(targets);
                // A pooler stands with the head, and is trained whole.
                let targets = Targets::from(targets).except(["pooler.dense"]);
                let mut adapted = adapters::attach(model, targets, listed.usual(usual))?;
                for pattern in beside {
                    adapted = adapted.also_train(pattern)?;
                }
                Ok(Subject::Adapted(adapted))
            }
        }
    }

    /// How many numbers are trained.
    pub fn count(&self) -> usize {
        self.groups().iter().flat_map(|group| &group.params).map(|(_, param)| param.count()).sum()
    }

    /// The present rank of each site, where ranks change.
    pub fn ranks(&self) -> Vec<usize> {
        self.adapters().map(Adapted::ranks).unwrap_or_default()
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

    fn adapters(&self) -> Option<&Adapted> {
        match self {
            Subject::Adapted(adapted) => Some(adapted),
            Subject::Whole(_) => None,
        }
    }

    fn adapters_mut(&mut self) -> Option<&mut Adapted> {
        match self {
            Subject::Adapted(adapted) => Some(adapted),
            Subject::Whole(_) => None,
        }
    }
}
