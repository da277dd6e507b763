//! Training on the GPU: memory stays flat, and losses are those of the reference.

use engrad::device::gpu::GpuOptions;
use engrad::nn::{Linear, Module, Param, Walker};
use engrad::optim::{AdamW, Schedule};
use engrad::train::Trainer;
use engrad::{Device, Ids, Mask, Rng, Tensor, attention};

use super::common::{self, compare, random};
use super::own;

/// A small network with every kind of kernel a training step has.
pub struct Network {
    table: Param,
    hidden: Linear,
    head: Linear,
}

impl Module for Network {
    fn walk(&self, at: &mut Walker<'_>) {
        at.param("table", &self.table);
        at.child("hidden", &self.hidden);
        at.child("head", &self.head);
    }
}

impl Network {
    /// The same numbers on every device.
    pub fn new(device: &Device) -> Network {
        let mut rng = Rng::seeded(3);
        let table = Param::new(&Tensor::normal(0.5, [11, 8], &mut rng, device));
        let [hidden, head] =
            [(8, 16), (16, 3)].map(|(from, to)| Linear::new(from, to, 0.3, &mut rng, device));
        Network { table, hidden, head }
    }

    /// The loss of a step on made-up tokens.
    pub fn loss(&self, step: u32) -> Tensor {
        let tokens = Ids::new((0..12).map(|at| (at * 5 + step) % 11).collect::<Vec<_>>(), [12], 11).unwrap();
        let classes =
            Ids::new((0..12).map(|at| (at * 5 + step) % 11 % 3).collect::<Vec<_>>(), [12], 3).unwrap();
        let x = self.table.value().embedding(&tokens).layer_norm(None, None, 1e-5);
        self.head.forward(&self.hidden.forward(&x).gelu().dropout(0.1)).cross_entropy(&classes)
    }
}

#[test]
fn a_thousand_training_steps_leave_memory_and_pipelines_as_they_were_after_ten() {
    let Some((device, gpu)) = own(&GpuOptions::default()) else { return };
    let network = Network::new(&device);
    let mut trainer =
        Trainer::new(&network, AdamW::default(), Schedule::linear(0.01, 20, 1000)).seeded(1).clipped(1.0);
    let mut state = None;
    let mut losses = Vec::new();
    for step in 0..1000 {
        losses.push(trainer.step(|| network.loss(step)).unwrap().loss);
        if step == 10 {
            state = Some((gpu.pool_statistics(), gpu.pipelines()));
        }
    }
    assert_eq!(Some((gpu.pool_statistics(), gpu.pipelines())), state);
    assert!(losses[999] < 0.2 * losses[0], "{} to {}", losses[0], losses[999]);
}

/// Heads that share keys, and padding that all heads share, stand in five axes of which no two are one.
#[test]
fn shared_heads_with_padding_cost_no_matrix_of_scores() {
    let Some((device, _gpu)) = own(&GpuOptions::default()) else { return };
    let (rows, heads, groups, time, width) = (2, 4, 2, 256, 16);
    let split = |heads, seed| random(&[rows, time, heads, width], seed, &device).transpose(1, 2).tracked();
    let (q, k, v) = (split(heads, 1), split(groups, 2), split(groups, 3));
    let mask = Mask::lengths(&[time, time / 2], time, &device).unwrap().and_causal();
    device.synchronise().unwrap();
    device.forget_peak();
    let before = device.peak_bytes().unwrap();
    drop(attention(&q, &k, &v, &mask, 0.25, 0.0).sum(..).backward());
    let scores = (rows * heads * time * time * size_of::<f32>()) as u64;
    let peak = device.peak_bytes().unwrap() - before;
    assert!(peak < scores / 2, "{peak} bytes, and the scores would be {scores}");
}

#[test]
fn training_follows_the_reference() {
    let Some(device) = common::gpu() else { return };
    let curve = |device: &Device| {
        let network = Network::new(device);
        let mut trainer = Trainer::new(&network, AdamW::default(), Schedule::constant(0.01)).seeded(1);
        (0..50).map(|step| trainer.step(|| network.loss(step)).unwrap().loss).collect::<Vec<_>>()
    };
    compare(&curve(&device), &curve(&Device::Reference), 1e-3).unwrap();
}
