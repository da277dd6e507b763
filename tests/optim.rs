//! Optimisers, schedules and clipping against PyTorch's trajectories, and what they promise beside.
//!
//! `tests/golden/train/optim` holds 20 steps of each setting on a network of two layers. Settings
//! that are not implemented are listed by name, so that a new one shows.

mod common;
mod stored;

use std::collections::{BTreeSet, HashMap};

use common::{close, on_every_device, test_on};
use engrad::adapters::Adapted;
use engrad::nn::{Module, Param, Walker, named_params};
use engrad::optim::{AdamW, Optimizer, Schedule, Sgd, Shape, clip};
use engrad::train::{Group, Trainable, Trainer};
use engrad::{Device, Reduction, Tensor};
use serde_json::Value;
use stored::{Stored, deviation};

/// Not implemented: other rules, AdamW's and Adam's variants, and clipping other than by the norm.
const LEFT_OUT: [&str; 13] = [
    "adadelta",
    "adafactor",
    "adagrad",
    "adam_amsgrad",
    "adam_l2",
    "adamax",
    "adamw.clip_norm_inf",
    "adamw_amsgrad",
    "nadam",
    "radam",
    "rmsprop",
    "rmsprop_centered_momentum",
    "sgd.clip_value",
];

/// `w2·tanh(w1·x + b1) + b2`
struct Network {
    parameters: [(&'static str, Param); 4],
}

impl Network {
    fn new(stored: &Stored, device: &Device) -> Network {
        let names = ["w1", "b1", "w2", "b2"];
        Network {
            parameters: names.map(|name| (name, Param::new(&stored.tensor(&format!("init.{name}"), device)))),
        }
    }

    fn loss(&self, x: &Tensor, y: &Tensor) -> Tensor {
        let [w1, b1, w2, b2] = self.parameters.each_ref().map(|(_, param)| param.value());
        x.linear(&w1, Some(&b1)).tanh().linear(&w2, Some(&b2)).mse_loss(y, Reduction::Mean)
    }
}

impl Module for Network {
    fn walk(&self, at: &mut Walker<'_>) {
        self.parameters.iter().for_each(|(name, param)| at.param(name, param));
    }
}

/// The network with weight decay on its matrices only, as most recipes have it.
struct WithoutDecayOnBiases<'n>(&'n Network);

impl Trainable for WithoutDecayOnBiases<'_> {
    fn groups(&self) -> Vec<Group> {
        let (biases, matrices) =
            named_params(self.0).into_iter().partition(|(name, _)| name.starts_with('b'));
        vec![
            Group { params: matrices, rate: 1.0, decay: 1.0, since: 0 },
            Group { params: biases, rate: 1.0, decay: 0.0, since: 0 },
        ]
    }

    fn adapters(&self) -> Option<&Adapted> {
        None
    }

    fn adapters_mut(&mut self) -> Option<&mut Adapted> {
        None
    }
}

/// PyTorch's or transformers' schedule of this name, 20 steps long.
fn schedule(name: Option<&str>, peak: f64) -> Schedule {
    let of = |warm_up, shape| Schedule { peak, warm_up, total: 20, shape };
    match name {
        None => Schedule::constant(peak),
        Some("linear_warmup") => Schedule::linear(peak, 5, 20),
        Some("cosine_warmup") => Schedule::cosine(peak, 4, 20),
        Some("constant_warmup") => of(6, Shape::Constant),
        Some("cosine_restarts") => of(2, Shape::CosineRestarts(2)),
        // transformers gives the last rate itself, 1e-4.
        Some("polynomial") => of(3, Shape::Polynomial { power: 2.0, end: 1e-4 / peak }),
        Some("inverse_sqrt") => of(4, Shape::InverseSqrt(4)),
        Some("step") => of(0, Shape::Stepped { every: 6, factor: 0.5 }),
        Some("exponential") => of(0, Shape::Stepped { every: 1, factor: 0.9 }),
        Some(other) => panic!("an unknown schedule: {other}"),
    }
}

/// Follows a case with an optimiser; `None` when it is not implemented.
fn follow(case: &Value, stored: &Stored, device: &Device) -> Option<()> {
    let number =
        |key: &str, default: f64| case["options"].get(key).map_or(default, |x| x.as_f64().expect("a number"));
    let options = case["options"].as_object().expect("options");
    let knows =
        |known: &[&str]| options.keys().all(|option| option == "lr" || known.contains(&option.as_str()));
    let clip = match case["clip"].as_str() {
        None => None,
        Some("norm") => Some(0.3),
        Some(_) => return None,
    };
    let plain = case["groups"].is_null();
    match case["optimizer"].as_str()? {
        "SGD" if knows(&["momentum", "dampening", "weight_decay", "nesterov"]) => {
            let mut sgd = Sgd::new(number("momentum", 0.0));
            sgd.dampening = number("dampening", 0.0);
            sgd.weight_decay = number("weight_decay", 0.0);
            sgd.nesterov = case["options"]["nesterov"] == true;
            run(case, stored, device, sgd, clip, plain);
        }
        // Without weight decay Adam and AdamW are the same.
        kind @ ("Adam" | "AdamW")
            if knows(&["betas", "eps", if kind == "AdamW" { "weight_decay" } else { "" }]) =>
        {
            let mut adam = AdamW::new(number("weight_decay", if kind == "Adam" { 0.0 } else { 0.01 }));
            adam.eps = number("eps", 1e-8);
            if let Some(betas) = case["options"]["betas"].as_array() {
                (adam.beta1, adam.beta2) = (betas[0].as_f64()?, betas[1].as_f64()?);
            }
            run(case, stored, device, adam, clip, plain);
        }
        _ => return None,
    }
    Some(())
}

fn run(
    case: &Value,
    stored: &Stored,
    device: &Device,
    optimizer: impl Optimizer,
    clip: Option<f64>,
    plain: bool,
) {
    let network = Network::new(stored, device);
    let schedule = schedule(case["schedule"].as_str(), case["options"]["lr"].as_f64().expect("a rate"));
    match plain {
        true => compare(case, stored, &network, Trainer::new(&network, optimizer, schedule), clip, device),
        false => {
            let subject = WithoutDecayOnBiases(&network);
            compare(case, stored, &network, Trainer::new(subject, optimizer, schedule), clip, device);
        }
    }
}

fn compare<T: Trainable, O: Optimizer>(
    case: &Value,
    stored: &Stored,
    network: &Network,
    trainer: Trainer<T, O>,
    clip: Option<f64>,
    device: &Device,
) {
    let id = case["id"].as_str().expect("a name");
    let allowed = if *device == Device::Reference { 1e-10 } else { 1e-5 };
    let series = |key: &str| -> Vec<f64> {
        case[key]
            .as_array()
            .map_or(Vec::new(), |all| all.iter().map(|x| x.as_f64().expect("a number")).collect())
    };
    let (losses, rates, norms) = (series("loss_before_step"), series("lr"), series("norm_before_clip"));
    let mut trainer = match clip {
        Some(limit) => trainer.clipped(limit),
        None => trainer,
    };
    let (x, y) = (stored.tensor("X", device), stored.tensor("Y", device));
    let mut compared = 0;
    for step in 0..20 {
        let done = trainer.step(|| network.loss(&x, &y)).expect("a finite step");
        assert!((done.loss - losses[step]).abs() <= allowed * losses[0], "{id}: loss of step {step}");
        assert!((done.rate - rates[step]).abs() <= 1e-12, "{id}: rate of step {step}");
        if let Some(norm) = done.norm {
            assert!((norm - norms[step]).abs() <= allowed * norms[0], "{id}: norm of step {step}");
        }
        for (name, param) in &network.parameters {
            let key = format!("{id}/step{}.{name}", step + 1);
            if stored.has(&key) {
                let off = deviation(&param.value().to_f64(), &stored.values(&key), 0.0);
                assert!(off <= allowed, "{id}: {name} after step {step} is off by {off:e}");
                compared += 1;
            }
        }
    }
    assert!(compared > 0, "{id}: no values are stored");
}

on_every_device! {
    fn twenty_steps_follow_pytorch(device) {
        let stored = Stored::read("tests/golden/train/optim/optim");
        let cases = stored.notes["cases"].as_array().expect("a list");
        let missing: BTreeSet<&str> = cases
            .iter()
            .filter(|case| follow(case, &stored, device).is_none())
            .map(|case| case["id"].as_str().expect("a name"))
            .collect();
        println!("{} cases followed, left out: {missing:?}", cases.len() - missing.len());
        assert_eq!(missing, BTreeSet::from(LEFT_OUT));
    }

    fn a_restored_optimiser_goes_on_to_the_bit(device) {
        goes_on(|| AdamW::new(0.1), device);
        goes_on(|| Sgd::new(0.9), device);
        goes_on(|| Sgd::new(0.0), device);
    }

    fn clipping_bounds_the_common_length(device) {
        let param = Param::new(&Tensor::new(&[3.0, 4.0], [2], device));
        let loss = param.value().square().sum(..) * 0.5;
        let mut gradients = loss.backward();
        let norm = clip::global_norm(&gradients, std::slice::from_ref(&param)).unwrap();
        assert_eq!(norm, 5.0);
        gradients.scale(clip::factor(norm, 2.0));
        close(gradients.of(&param.value()).unwrap(), &[1.2, 1.6], 1e-6);
        assert_eq!(clip::factor(1.0, 2.0), 1.0, "a short gradient stays as it is");
    }

    fn foreign_optimiser_state_is_refused_by_name(device) {
        let param = Param::new(&Tensor::zeros([2], device));
        let state = |entries: &[(&str, Tensor)]| -> HashMap<String, Tensor> {
            entries.iter().map(|(name, tensor)| (name.to_string(), tensor.clone())).collect()
        };
        let (two, three, one) = (Tensor::zeros([2], device), Tensor::zeros([3], device), Tensor::full(1.5, [], device));
        let rows: [(&str, HashMap<String, Tensor>); 3] = [
            ("square is missing", state(&[("mean", two.clone())])),
            (
                "mean is [3], expected [2]",
                state(&[("mean", three.clone()), ("square", two.clone()), ("steps", one.clone())]),
            ),
            (
                "steps is 1.5, expected a count",
                state(&[("mean", two.clone()), ("square", two.clone()), ("steps", one)]),
            ),
        ];
        for (expected, state) in rows {
            let error = AdamW::default().restore(&param, &state).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let error = Sgd::new(0.9).restore(&param, &state(&[("velocity", three)])).unwrap_err().to_string();
        assert!(error.contains("velocity is [3], expected [2]"), "{error}");
    }
}

/// Two updates, state taken and restored into a fresh optimiser, and a third by both.
fn goes_on<O: Optimizer>(make: impl Fn() -> O, device: &Device) {
    let start = Tensor::new(&[1.0, -2.0, 0.5], [3], device);
    let gradient = Tensor::new(&[0.3, 0.1, -0.7], [3], device);
    let (param, mut optimizer) = (Param::new(&start), make());
    (0..2).for_each(|_| optimizer.update(&param, &gradient, 0.1, 1.0));
    let (copy, mut restored) = (Param::new(&param.value()), make());
    let state =
        optimizer.state(&param).into_iter().map(|(name, tensor)| (name.to_string(), tensor)).collect();
    restored.restore(&copy, &state).expect("its own state");
    optimizer.update(&param, &gradient, 0.1, 1.0);
    restored.update(&copy, &gradient, 0.1, 1.0);
    assert_eq!(param.value().to_f64(), copy.value().to_f64());
}

#[test]
fn schedules_give_the_tables_of_transformers() {
    let text = std::fs::read_to_string("tests/golden/train/optim/schedules.json").expect("committed");
    let tables: Value = serde_json::from_str(&text).expect("JSON");
    let tables = tables["lr_at_step_0_to_25"].as_object().expect("tables by name");
    assert_eq!(tables.len(), 8);
    for (name, rates) in tables {
        let schedule = schedule(Some(name), 1.0);
        for (step, rate) in rates.as_array().expect("a list").iter().enumerate() {
            // After its end transformers' cosine rises again; ours stays where it ended.
            let expected =
                if name == "cosine_warmup" && step > 20 { 0.0 } else { rate.as_f64().expect("a number") };
            let found = schedule.rate(step as u64);
            assert!((found - expected).abs() < 1e-12, "{name} at {step}: {found} instead of {expected}");
        }
    }
}

#[test]
fn a_schedule_that_is_all_warm_up_ends_at_its_end() {
    for shape in [Shape::Linear, Shape::Cosine, Shape::CosineRestarts(3)] {
        for warm_up in [20, 30] {
            let schedule = Schedule { peak: 1.0, warm_up, total: 20, shape };
            assert_eq!(schedule.rate(10), 10.0 / warm_up as f64);
            assert_eq!([warm_up, 30, u64::MAX].map(|step| schedule.rate(step)), [0.0; 3]);
        }
    }
    assert_eq!(Schedule::constant(0.5).rate(u64::MAX), 0.5);
}
