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
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = flat_group(group, groups);
    if (row >= params.rows) { return; }
    let source = params.offset + row * params.width;
    let place = row * params.width;
    let width = f32(params.width);
    var mean = 0.0;
    if (params.centred != 0u) {
        for (var j = lane; j < params.width; j += ROW_GROUP) {
            mean += x[source + j];
        }
        mean = row_sum(mean, lane) / width;
    }
    var square = 0.0;
    for (var j = lane; j < params.width; j += ROW_GROUP) {
        let distance = x[source + j] - mean;
        square += distance * distance;
    }
    let rstd = 1.0 / sqrt(row_sum(square, lane) / width + params.eps);
    for (var j = lane; j < params.width; j += ROW_GROUP) {
        y[place + j] = (x[source + j] - mean) * rstd;
    }
    if (lane == 0u) {
        rstds[row] = rstd;
    }
}
