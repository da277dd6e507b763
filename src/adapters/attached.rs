//! One adapter of a model: its method, what sits in which socket, and what is trained beside it.
//! It can stand outside of the model and be put back. Read next: `adapted.rs`.

use std::sync::Arc;

use super::{Method, Site, Targets};
use crate::error::{Error, Result};
use crate::nn::{Adapter, Form, Module, Param, Part, Socket, Walker, all_names, named_params, sockets};
use crate::tensor::Tensor;

/// What a model was before its first adapter.
pub(super) struct Host {
    /// Every layer with a socket, by path, in forward order.
    sockets: Vec<(String, Socket)>,
    /// Every parameter, by path.
    pub(super) params: Vec<(String, Param)>,
    /// All paths of those that have several, the first one first.
    pub(super) tied: Vec<Vec<String>>,
    /// Which of them were frozen.
    frozen: Vec<Param>,
}

/// A layer and the adapter that belongs there.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) path: String,
    pub(super) socket: Socket,
    pub(super) adapter: Arc<dyn Adapter>,
}

/// A base parameter that is trained beside the adapters.
#[derive(Clone)]
pub(super) struct Beside {
    pub(super) path: String,
    pub(super) param: Param,
    /// Whether the method asked for it; the others form the file's `modules_to_save`.
    pub(super) by_method: bool,
    /// The model's own value while the adapter is in, the adapter's while it is out.
    pub(super) other: Tensor,
}

/// One adapter.
pub(super) struct Attached {
    pub(super) method: Box<dyn Method>,
    pub(super) places: Vec<Place>,
    pub(super) beside: Vec<Beside>,
    pub(super) inside: bool,
}

impl Host {
    pub(super) fn of(model: &dyn Module) -> Host {
        let params = named_params(model);
        let frozen = params.iter().filter(|(_, param)| !param.is_trainable()).map(|(_, p)| p.clone());
        let names = all_names(model).into_iter().map(|(names, _)| names);
        let tied = names.filter(|names| names.len() > 1).collect();
        Host { frozen: frozen.collect(), sockets: sockets(model), params, tied }
    }

    pub(super) fn freeze(&self) {
        self.params.iter().for_each(|(_, param)| param.freeze());
    }

    /// Makes trainable again what was so before.
    pub(super) fn thaw(&self) {
        self.params.iter().for_each(|(_, param)| param.unfreeze());
        self.frozen.iter().for_each(Param::freeze);
    }

    /// The path of every layer with a socket, in forward order.
    pub(super) fn layers(&self) -> impl Iterator<Item = &str> {
        self.sockets.iter().map(|(path, _)| path.as_str())
    }

    /// Where a layer stands in forward order.
    pub(super) fn number(&self, path: &str) -> usize {
        self.sockets.iter().position(|(other, _)| other == path).unwrap_or(self.sockets.len())
    }

    /// Puts the method's adapters into every layer that the targets choose; a method that trains base
    /// parameters only needs no layer that fits.
    ///
    /// **Errors** as [`attach`](super::attach); the sockets are then as they were.
    pub(super) fn attach(&self, targets: &Targets, mut method: Box<dyn Method>) -> Result<Attached> {
        let chosen = self.sockets.iter().filter(|(path, socket)| {
            let embedding = socket.is_embedding();
            match socket.blocks() {
                Some(_) => method.precedes(),
                None => method.adapts() && targets.choose(path, embedding) && (!embedding || method.embeds()),
            }
        });
        let chosen: Vec<&(String, Socket)> = chosen.collect();
        let mut places: Vec<Place> = Vec::new();
        for (number, (path, socket)) in chosen.into_iter().enumerate() {
            let attached = method
                .attach(&site(path, socket, number))
                .and_then(|adapter| socket.attach(adapter.clone()).map(|()| adapter));
            match attached {
                Ok(adapter) => places.push(Place { path: path.clone(), socket: socket.clone(), adapter }),
                Err(error) => {
                    places.iter().for_each(|place| drop(place.socket.detach()));
                    return Err(Error::Adapter(format!("{path}: {error}")));
                }
            }
        }
        method.attached();
        let module = |path: &str| path.rsplit_once('.').map_or(String::new(), |(module, _)| module.into());
        let chosen = |path: &str| match method.adapts() {
            true => places.iter().any(|place| place.path == module(path)),
            false => targets.choose(&module(path), false),
        };
        let paths = self.params.iter().map(|(path, _)| path.clone());
        let trained: Vec<String> = paths.filter(|path| method.trains(path, chosen(path))).collect();
        if places.is_empty() && trained.is_empty() {
            if method.precedes() {
                return Err(Error::Adapter("this model has no place for virtual tokens".into()));
            }
            let linear = self.sockets.iter().find(|(_, socket)| socket.is_linear());
            let example = linear.map_or("none", |(path, _)| path);
            return Err(Error::Adapter(format!(
                "no linear layer fits {targets}; the first one is called {example}"
            )));
        }
        self.freeze();
        let mut attached = Attached { method, places, beside: Vec::new(), inside: true };
        attached.train_beside(self, |path| trained.iter().any(|trained| trained == path), true);
        Ok(attached)
    }
}

fn site(path: &str, socket: &Socket, number: usize) -> Site {
    Site {
        path: path.to_string(),
        inputs: socket.inputs(),
        outputs: socket.outputs(),
        embedding: socket.is_embedding(),
        stack: socket.blocks(),
        base: socket.base(),
        device: socket.weight().device(),
        number,
    }
}

impl Place {
    /// Whether files hold the layer's matrix as `[in, out]`.
    pub(super) fn is_transposed(&self) -> bool {
        self.socket.weight().form() == Form::Transposed
    }

    /// The adapter's own parameters by their full paths.
    pub(super) fn params(&self) -> Vec<(String, Param)> {
        let mut found = Vec::new();
        Walker::visit(&*self.adapter, &mut |name, part| {
            if let Part::Param(param) = part {
                found.push((format!("{}.{name}", self.path), param.clone()));
            }
        });
        found
    }
}

impl Attached {
    /// Unfreezes the chosen base parameters, buffers aside, and says whether there are any.
    pub(super) fn train_beside(
        &mut self,
        host: &Host,
        chosen: impl Fn(&str) -> bool,
        by_method: bool,
    ) -> bool {
        let mut any = false;
        let learned = |(path, param): &&(String, Param)| param.form() != Form::Buffer && chosen(path);
        for (path, param) in host.params.iter().filter(learned) {
            any = true;
            param.unfreeze();
            if !self.beside.iter().any(|beside| beside.path == *path) {
                let (param, other) = (param.clone(), param.value().detach());
                self.beside.push(Beside { path: path.clone(), param, by_method, other });
            }
        }
        any
    }

    /// Takes it out of the model, which computes as before it was attached: heads and norms that were
    /// trained beside it included.
    pub(super) fn take_out(&mut self) {
        if self.inside {
            self.empty_sockets();
            self.beside.iter_mut().for_each(Beside::swap);
            self.beside.iter().for_each(|beside| beside.param.freeze());
            self.inside = false;
        }
    }

    /// Puts it back, unmerged.
    ///
    /// **Errors** when another adapter sits in one of the sockets; none is then put back.
    pub(super) fn put_in(&mut self) -> Result<()> {
        if self.inside {
            return Ok(());
        }
        for (at, place) in self.places.iter().enumerate() {
            if let Err(error) = place.socket.attach(place.adapter.clone()) {
                self.places[..at].iter().for_each(|place| drop(place.socket.detach()));
                return Err(error);
            }
        }
        self.beside.iter_mut().for_each(Beside::swap);
        self.beside.iter().for_each(|beside| beside.param.unfreeze());
        self.inside = true;
        Ok(())
    }

    pub(super) fn empty_sockets(&self) {
        self.places.iter().for_each(|place| drop(place.socket.detach()));
    }

    /// The adapter's value of a base parameter that it trains.
    pub(super) fn own(&self, param: &Param) -> Option<Tensor> {
        let beside = self.beside.iter().find(|beside| beside.param.id() == param.id())?;
        Some(if self.inside { param.value().detach() } else { beside.other.clone() })
    }

    /// The model's own value of a base parameter, whatever this adapter made of it.
    pub(super) fn original(&self, param: &Param) -> Tensor {
        let beside = self.beside.iter().find(|beside| self.inside && beside.param.id() == param.id());
        beside.map_or_else(|| param.value().detach(), |beside| beside.other.clone())
    }

    /// Every parameter of the adapters, by path.
    pub(super) fn adapter_params(&self) -> Vec<(String, Param)> {
        self.places.iter().flat_map(Place::params).collect()
    }

    /// How many numbers training it changes.
    pub(super) fn trained_numbers(&self) -> usize {
        let own = self.adapter_params().into_iter().filter(|(_, param)| param.is_trainable());
        let beside = self.beside.iter().map(|beside| beside.param.count());
        own.map(|(_, param)| param.count()).chain(beside).sum()
    }
}

impl Beside {
    /// Exchanges the value in the model with the other one.
    fn swap(&mut self) {
        let now = self.param.value().detach();
        self.param.set(&self.other);
        self.other = now;
    }
}
