//! Elementwise programs: which parts of their inputs a dispatch binds, and dense copies, which are the
//! program that changes nothing.
//!
//! Read next: `render.rs`, a program as shader text.

use std::sync::Arc;

use super::pipeline::{Pipeline, Recipe};
use super::record::{Recorded, dispatch, per_element};
use super::render::{self, Guard, Rendered};
use super::window::{Window, pieces};
use super::{Gpu, Memory, memory, run};
use crate::device::array::Array;
use crate::device::kernel::Kernel;
use crate::expr::Program;
use crate::layout::Layout;

/// The array itself if it is contiguous, else a contiguous copy.
pub fn contiguous(x: &Array) -> Array {
    if x.layout().count() == 0 {
        // Without elements any strides are contiguous; callers count on those of a dense array.
        return x.view(Layout::contiguous(x.sizes()));
    }
    if x.layout().is_contiguous() {
        return x.clone();
    }
    let program = Program::build(|[x]| x);
    let copy = Kernel::Elementwise { program: &program, inputs: vec![x.clone()], sizes: x.sizes() };
    run(memory(x).gpu(), &copy).pop().expect("an elementwise kernel with one output")
}

/// Records a program over every element of its outputs.
pub fn elementwise(gpu: &Arc<Gpu>, program: &Program, inputs: &[Array], outputs: &[Arc<Memory>]) -> Recorded {
    let too_large = |&at: &usize| {
        let x = &inputs[at];
        !x.layout().is_contiguous() && !Window::of_view(x).0.fits()
    };
    let mut too_large = (0..inputs.len()).filter(too_large);
    let passes = match (too_large.next(), too_large.next()) {
        (None, _) => vec![None],
        (Some(at), None) => Window::over_view(&inputs[at]).into_iter().map(|part| Some((at, part))).collect(),
        // Copying meets them one by one.
        _ => return of_dense(gpu, program, inputs, outputs),
    };
    for (first, count) in pieces(gpu, outputs[0].len(), 1)? {
        for &pass in &passes {
            let mut windows = Vec::with_capacity(inputs.len());
            let mut layouts = Vec::with_capacity(inputs.len());
            for (at, x) in inputs.iter().enumerate() {
                let layout = x.layout();
                // Of a dense input the window holds this piece, so its offset counts from the piece's
                // start; any other input is bound as far as it reaches, or as far as this pass goes.
                let (window, offset) = match pass {
                    Some((input, part)) if input == at => part,
                    _ if layout.is_contiguous() => {
                        let (window, offset) = Window::of(memory(x), layout.offset() + first, count);
                        (window, offset.wrapping_sub(first))
                    }
                    _ => Window::of_view(x),
                };
                windows.push(window);
                layouts.push(Layout::strided(layout.sizes().to_vec(), layout.strides().to_vec(), offset));
            }
            let layouts: Vec<&Layout> = layouts.iter().collect();
            let guard = pass.map(|(input, (window, _))| Guard { input, length: window.len() });
            let Some(rendered) = render::render(program, &layouts, first, count, guard) else {
                return of_dense(gpu, program, inputs, outputs);
            };
            let targets: Vec<Window> = outputs.iter().map(|y| Window::aligned(y, first, count)).collect();
            let pipeline = rendered_pipeline(gpu, &rendered, inputs.len(), outputs.len());
            dispatch(gpu, &pipeline, &rendered.words, &windows, &targets, per_element(count), 0)?;
        }
    }
    Ok(())
}

/// An elementwise program whose inputs take more parameters than there is room for, or more windows than
/// one after the other: dense ones take few.
fn of_dense(gpu: &Arc<Gpu>, program: &Program, inputs: &[Array], outputs: &[Arc<Memory>]) -> Recorded {
    if inputs.iter().all(|x| x.layout().is_contiguous()) {
        return Err(Arc::from("a formula has more inputs and numbers than one shader has parameters for"));
    }
    let dense: Vec<Array> = inputs.iter().map(contiguous).collect();
    elementwise(gpu, program, &dense, outputs)
}

fn rendered_pipeline(gpu: &Gpu, rendered: &Rendered, inputs: usize, outputs: usize) -> Arc<Pipeline> {
    let recipe = Recipe { name: "elementwise", entry: "main", inputs, outputs };
    gpu.pipelines.get(&gpu.context.device, &rendered.text, recipe, || rendered.shader())
}
