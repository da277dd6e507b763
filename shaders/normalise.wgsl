// Each row with mean 0 and variance 1, times weight, plus bias: y = (x - mean)·rstd·weight + bias, where
// rstd = 1/sqrt(mean((x - mean)²) + eps).
//
// Twin of src/device/cpu/normalise.rs. One workgroup computes one row. Without `centred` the mean
// counts as 0.

struct Params {
    rows: u32,
    width: u32,
    x_offset: u32,
    weight_offset: u32,
    bias_offset: u32,
    eps: f32,
    centred: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
// The mean and rstd of each row.
@group(0) @binding(5) var<storage, read_write> statistics: array<f32>;

@compute @workgroup_size(ROW_GROUP)
fn main(group: Group, here: Place) {
    let first = first_of(here);
    let row = row_of(group, here);
    if (row >= params.rows) { return; }
    let source = params.x_offset + row * params.width;
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
        let normalised = (x[source + j] - mean) * rstd;
        y[place + j] = normalised * weight[params.weight_offset + j] + bias[params.bias_offset + j];
    }
    if (first == 0u) {
        statistics[2u * row] = mean;
        statistics[2u * row + 1u] = rstd;
    }
}
