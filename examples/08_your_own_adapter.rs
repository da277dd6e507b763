//! Your own adapter: a method outside of the crate, through what is public.
//!
//! The method here multiplies a layer's weights from the left and from the right by what it learns:
//! `W' = diag(1 + r)·W·diag(1 + c)` with `r: [out]` and `c: [in]`, both starting at 0, so a fresh adapter
//! changes nothing. It trains `in + out` numbers per layer and never forms W'.
//! CONTRIBUTING.md says what turns this file into a method of the library.
//!
//! ```text
//! cargo run --release --example 08_your_own_adapter [-- --device gpu]
//! ```

#[path = "common/device.rs"]
mod device;
#[path = "common/stars.rs"]
mod stars;

use std::sync::Arc;

use clap::Parser;
use device::OnDevice;
use engrad::adapters::{self, Method, Site};
use engrad::nn::{Adapter, Module, Param, Walker, Weights};
use engrad::optim::{AdamW, Schedule};
use engrad::train::Trainer;
use engrad::{Result, Rng, Tensor, inference};
use serde_json::{Map, Value};

/// The method: its settings, of which this one has none.
struct RowsAndColumns;

/// What sits in one layer.
struct Scales {
    /// r: `[out]`
    rows: Param,
    /// c: `[in]`
    columns: Param,
}

impl Method for RowsAndColumns {
    fn attach(&mut self, site: &Site) -> Result<Arc<dyn Adapter>> {
        let zeros = |count| Param::new(&Tensor::zeros([count], &site.device));
        Ok(Arc::new(Scales { rows: zeros(site.outputs), columns: zeros(site.inputs) }))
    }

    fn config(&self) -> Map<String, Value> {
        Map::from_iter([("peft_type".to_string(), "ROWS_AND_COLUMNS".into())])
    }
}

/// Names the parameters, for files and optimisers.
impl Module for Scales {
    fn walk(&self, at: &mut Walker<'_>) {
        at.param("scale_rows", &self.rows);
        at.param("scale_columns", &self.columns);
    }
}

impl Adapter for Scales {
    /// The definition: merging and the laws use it.
    fn adapt(&self, base: &Weights) -> Weights {
        let rows = (self.rows.value() + 1.0).unsqueeze(1);
        Weights { weight: &base.weight * rows * (self.columns.value() + 1.0), bias: base.bias.clone() }
    }

    /// The same on `x: [.., in]`, for the price of two scalings.
    fn forward(&self, x: &Tensor, base: &Weights) -> Tensor {
        let scaled = (x * (self.columns.value() + 1.0)).linear(&base.weight, None);
        let y = scaled * (self.rows.value() + 1.0);
        base.bias.as_ref().map_or(y.clone(), |bias| y + bias)
    }
}

fn main() -> Result<()> {
    println!("1. A model that knows which digit stands after the star");
    let model = stars::model(1, &OnDevice::parse().device)?;
    let mut trainer = Trainer::new(&model, AdamW::new(0.01), Schedule::linear(3e-3, 50, 500)).clipped(1.0);
    let rng = &mut Rng::seeded(2);
    for _ in 0..500 {
        let (rows, answers) = stars::batch(&model, 64, 1, rng)?;
        trainer.step(|| model.forward(&rows).cross_entropy(&answers))?;
    }
    let (rows, _) = stars::batch(&model, 32, -1, &mut Rng::seeded(9))?;
    let scores = || inference(|| model.forward(&rows)).to_vec();

    println!("2. The adapter in every linear layer, and what the laws ask of it");
    let before = scores();
    let tuned = adapters::attach(&model, "all-linear", RowsAndColumns)?.also_train("classifier.*")?;
    assert_eq!(scores(), before, "a fresh adapter changes nothing");
    println!("   {}", tuned.to_string().replace('\n', "\n   "));

    println!("3. It learns the other task: the digit before the star");
    let start = stars::accuracy(&model, -1)?;
    let mut trainer = Trainer::new(tuned, AdamW::default(), Schedule::linear(1e-2, 50, 500)).clipped(1.0);
    for _ in 0..500 {
        let (rows, answers) = stars::batch(&model, 64, -1, rng)?;
        trainer.step(|| model.forward(&rows).cross_entropy(&answers))?;
    }
    let learned = stars::accuracy(&model, -1)?;
    println!("   from {:.1} % to {:.1} %", 100.0 * start, 100.0 * learned);
    assert!(learned > start + 0.2);

    println!("4. Merged it computes the same, unmerged to the bit; disabled it is not there");
    let (mut tuned, apart) = (trainer.subject, scores());
    tuned.merge()?;
    let off = scores().iter().zip(&apart).fold(0.0f32, |worst, (a, b)| worst.max((a - b).abs()));
    println!("   merged against unmerged: {off:.1e}");
    assert!(off < 1e-3);
    tuned.unmerge();
    assert_eq!(scores(), apart);
    tuned.disable();
    assert_eq!(scores(), before);
    Ok(())
}
