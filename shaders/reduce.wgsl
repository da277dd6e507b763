// Sums and maxima along axes.
//
// Twin of src/device/cpu/reduce.rs. The kept axes are at most two groups of equal stride, and so are
// the reduced ones. Output o is `chunks` pieces of a reduction over `width` elements; with several
// chunks the host runs the shader again over the pieces. One invocation folds one piece when
// neighbouring outputs lie side by side (`by_invocation`), one workgroup folds it when neighbouring
// terms do (`by_workgroup`).

struct Params {
    pieces: u32,
    chunks: u32,
    length: u32,
    width: u32,
    offset: u32,
    kept_size: u32,
    kept_outer: u32,
    kept_inner: u32,
    reduced_size: u32,
    reduced_outer: u32,
    reduced_inner: u32,
    maximum: u32,
    y_offset: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

fn base_of(output: u32) -> u32 {
    return params.offset + (output / params.kept_size) * params.kept_outer
        + (output % params.kept_size) * params.kept_inner;
}

// Folds every step-th term of a piece.
fn fold(piece: u32, first: u32, step: u32) -> f32 {
    let base = base_of(piece / params.chunks);
    let start = (piece % params.chunks) * params.length;
    let end = min(start + params.length, params.width);
    var total = select(0.0, from_bits(0xff800000u), params.maximum != 0u);
    for (var j = start + first; j < end; j += step) {
        let term = x[base + (j / params.reduced_size) * params.reduced_outer
            + (j % params.reduced_size) * params.reduced_inner];
        if (params.maximum != 0u) {
            total = maximum(total, term);
        } else {
            total += term;
        }
    }
    return total;
}

@compute @workgroup_size(ELEMENT_GROUP)
fn by_invocation(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let piece = flat_index(id, groups);
    if (piece >= params.pieces) { return; }
    y[params.y_offset + piece] = fold(piece, 0u, 1u);
}

@compute @workgroup_size(ROW_GROUP)
fn by_workgroup(group: Group, here: Place) {
    let first = first_of(here);
    let piece = row_of(group, here);
    if (piece >= params.pieces) { return; }
    let part = fold(piece, first, ROW_STEP);
    var total: f32;
    if (params.maximum != 0u) {
        total = row_max(part, here);
    } else {
        total = row_sum(part, here);
    }
    if (first == 0u) {
        y[params.y_offset + piece] = total;
    }
}
