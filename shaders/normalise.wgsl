// Each row with mean 0 and variance 1: y = (x - mean)·rstd, rstd = 1/sqrt(mean((x - mean)²) + eps).
//
// Twin of src/device/cpu/normalise.rs. One workgroup computes one row. Without `centred` the mean
// counts as 0.

struct Params {
    rows: u32,
    width: u32,
    offset: u32,
    eps: f32,
    centred: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<storage, read_write> rstds: array<f32>;

@compute @workgroup_size(ROW_GROUP)
fn main(group: Group, here: Place) {
    let first = first_of(here);
    let row = row_of(group, here);
    if (row >= params.rows) { return; }
    let source = params.offset + row * params.width;
    let place = row * params.width;
    let width = f32(params.width);
    var mean = 0.0;
    if (params.centred != 0u) {
        for (var j = first; j < params.width; j += ROW_STEP) {
            mean += x[source + j];
        }
        mean = row_sum(mean, here) / width;
    }
    var square = 0.0;
    for (var j = first; j < params.width; j += ROW_STEP) {
        let distance = x[source + j] - mean;
        square += distance * distance;
    }
    let rstd = 1.0 / sqrt(row_sum(square, here) / width + params.eps);
    for (var j = first; j < params.width; j += ROW_STEP) {
        y[place + j] = (x[source + j] - mean) * rstd;
    }
    if (first == 0u) {
        rstds[row] = rstd;
    }
}
