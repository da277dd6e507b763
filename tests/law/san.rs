//! The laws of SAN: two uses of one vector, and what a pair of layers makes of them.

use engrad::adapters::{self, Adapted, Ia3, San, SanMode};
use engrad::nn::{LayerNorm, Linear, Param, named_params};
use engrad::{Device, Tensor};

use super::{Law, off, truth};
use crate::common::random;
use crate::tiny::Chain;

/// The law of a name, if it is one of SAN's.
pub fn named(name: &str) -> Option<Law> {
    let law: fn(&Device) -> f64 = match name {
        "linear pair: both(gamma) = nt(gamma^2)" => |device| both_is_nt_of_squares(Tensor::clone, device),
        "ReLU pair, gamma > 0: both(gamma) = nt(gamma^2)" => {
            |device| both_is_nt_of_squares(Tensor::relu, device)
        }
        "GELU pair: not equal" => |device| truth(both_is_nt_of_squares(Tensor::gelu, device) > 1e-3),
        "gamma = 1 changes nothing, exactly" => ones_change_nothing,
        "gradient of a shared gamma = sum of its two single-use gradients" => two_uses_add,
        "gradient of a shared gamma is the formula of section 3.3" => gradient_is_the_formula,
        "nt without shift = PEFT's IA3 with gamma on every output" => nt_is_ia3,
        "counts: ViT-B/16 base 83,712 gammas; 38,400 norm parameters; 55,296 unused LTD_LTP" => counts,
        _ => return None,
    };
    Some(Box::new(law))
}

/// Two layers `4 -> 5 -> 3` of which the second follows the first, and their weights.
struct Pair {
    model: Chain,
    /// W, b, W', b'
    weights: [Tensor; 4],
    /// γ and γ', above 0.
    gammas: [Tensor; 2],
    x: Tensor,
}

impl Pair {
    fn new(between: fn(&Tensor) -> Tensor, device: &Device) -> Pair {
        let weights = [
            random(&[5, 4], 1, device),
            random(&[5], 2, device),
            random(&[3, 5], 3, device),
            random(&[3], 4, device),
        ];
        let [w, b, v, c] = &weights;
        let (first, second) = (Linear::from_weights(w, Some(b)), Linear::from_weights(v, Some(c)));
        let layers = vec![("h.0.mlp.c_fc".to_string(), first), ("h.0.mlp.c_proj".to_string(), second)];
        let gammas = [5, 3].map(|size| random(&[size], size as u64, device).abs() + 0.5);
        Pair { model: Chain { layers, between }, weights, gammas, x: random(&[6, 4], 7, device) }
    }

    fn attach(&self, mode: SanMode, gammas: &[Tensor; 2]) -> Adapted {
        let tuned = adapters::attach(&self.model, "*", San::new(mode)).unwrap();
        self.gammas_of(&tuned).iter().zip(gammas).for_each(|(param, value)| param.set(value));
        tuned
    }

    fn gammas_of(&self, tuned: &Adapted) -> Vec<Param> {
        tuned.trainable().into_iter().map(|(_, param)| param).collect()
    }

    fn outputs(&self) -> Tensor {
        self.model.forward(&self.x)
    }

    /// The gradient of γ for an output gradient G.
    fn gradient(&self, g: &Tensor) -> Tensor {
        let tuned = self.attach(SanMode::Both, &self.gammas);
        let gamma = self.gammas_of(&tuned)[0].value();
        let gradients = (self.outputs() * g).sum(..).backward();
        gradients.of(&gamma).unwrap().clone()
    }
}

fn both_is_nt_of_squares(between: fn(&Tensor) -> Tensor, device: &Device) -> f64 {
    let pair = Pair::new(between, device);
    let tuned = pair.attach(SanMode::Both, &pair.gammas);
    let both = pair.outputs();
    tuned.detach();
    let [first, second] = &pair.gammas;
    pair.attach(SanMode::Nt, &[first.square(), second.clone()]);
    off(&pair.outputs(), &both)
}

fn ones_change_nothing(device: &Device) -> f64 {
    let pair = Pair::new(Tensor::gelu, device);
    let before = pair.outputs().to_f64();
    let _tuned = adapters::attach(&pair.model, "*", San::new(SanMode::Both)).unwrap();
    truth(pair.outputs().to_f64() == before)
}

fn two_uses_add(device: &Device) -> f64 {
    let pair = Pair::new(Tensor::gelu, device);
    let g = random(&[6, 3], 11, device);
    let ([w, b, v, c], [first, second]) = (&pair.weights, &pair.gammas);
    let (output, input) = (first.tracked(), first.tracked());
    let hidden = (pair.x.linear(w, Some(b)) * &output).gelu();
    let y = (hidden * &input).linear(v, Some(c)) * second;
    let gradients = (y * &g).sum(..).backward();
    let sum = gradients.of(&output).unwrap() + gradients.of(&input).unwrap();
    off(&pair.gradient(&g), &sum)
}

/// With u = relu(γ·(W·x + b)) and z = W'·(γ·u) + b': the sum over tokens of `g_y·(W·x + b) + (W'ᵀ·g_z)·u`.
fn gradient_is_the_formula(device: &Device) -> f64 {
    let pair = Pair::new(Tensor::relu, device);
    let g = random(&[6, 3], 11, device);
    let ([w, b, v, _], [first, second]) = (&pair.weights, &pair.gammas);
    let before = pair.x.linear(w, Some(b));
    let u = (&before * first).relu();
    let of_scaled = (&g * second).matmul(v);
    let of_y = &of_scaled * first * u.sign();
    let expected = (of_y * before + of_scaled * u).sum(0);
    off(&pair.gradient(&g), &expected)
}

fn nt_is_ia3(device: &Device) -> f64 {
    let pair = Pair::new(Tensor::gelu, device);
    let tuned = pair.attach(SanMode::Nt, &pair.gammas);
    let expected = pair.outputs();
    tuned.detach();
    let tuned = adapters::attach(&pair.model, "*", Ia3::default()).unwrap();
    for (param, gamma) in pair.gammas_of(&tuned).iter().zip(&pair.gammas) {
        param.set(&gamma.reshape(param.sizes()));
    }
    off(&pair.outputs(), &expected)
}

/// ViT-B/16: an embedding of 768 and 12 blocks, of which one is counted; its weights are one number, seen
/// everywhere. There are two norms in a block and one at the end.
fn counts(_: &Device) -> f64 {
    let one = Tensor::zeros([1, 1], &Device::Cpu);
    let layer = |name: &str, inputs: usize, outputs: usize| {
        (format!("h.1.{name}"), Linear::from_weights(&one.expand([outputs, inputs]), None))
    };
    let mut layers =
        vec![("h.0.mlp.c_proj".to_string(), Linear::from_weights(&one.expand([768, 768]), None))];
    layers.push(layer("attn.c_attn", 768, 2304));
    layers.push(layer("attn.c_proj", 768, 768));
    layers.push(layer("mlp.c_fc", 768, 3072));
    layers.push(layer("mlp.c_proj", 3072, 768));
    let model = Chain { layers, between: Tensor::clone };
    let method = San { synapse_scale: true, ..San::new(SanMode::Both) };
    let tuned = adapters::attach(&model, "*", method).unwrap();
    let count = |start: &str, end: &str| -> usize {
        let all = tuned.trainable();
        let chosen = all.iter().filter(|(path, _)| path.starts_with(start) && path.ends_with(end));
        chosen.map(|(_, param)| param.count()).sum()
    };
    let gammas = count("h.0.", "gamma") + 12 * count("h.1.", "gamma");
    let norm = named_params(&LayerNorm::new(768, 1e-6, &Device::Cpu));
    let norms: usize = (12 * 2 + 1) * norm.iter().map(|(_, param)| param.count()).sum::<usize>();
    truth(gammas == 83_712 && norms == 38_400 && 12 * count("h.1.", "lambda") == 55_296)
}
