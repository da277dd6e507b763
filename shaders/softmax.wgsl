// Softmax of each row: exp(x - max) / sum.
//
// Twin of src/device/cpu/softmax.rs. One workgroup computes one row, its invocations every 64th
// element. The largest element is found from a finite start, so a row of -inf gives NaN and no trap.

struct Params {
    rows: u32,
    width: u32,
    offset: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(ROW_GROUP)
fn main(group: Group, here: Place) {
    let first = first_of(here);
    let row = row_of(group, here);
    if (row >= params.rows) { return; }
    let source = params.offset + row * params.width;
    let place = row * params.width;
    var largest = LOWEST;
    for (var j = first; j < params.width; j += ROW_STEP) {
        largest = max(largest, x[source + j]);
    }
    largest = row_max(largest, here);
    var sum = 0.0;
    for (var j = first; j < params.width; j += ROW_STEP) {
        let term = exp_of(x[source + j] - largest);
        y[place + j] = term;
        sum += term;
    }
    sum = row_sum(sum, here);
    for (var j = first; j < params.width; j += ROW_STEP) {
        y[place + j] = y[place + j] / sum;
    }
}
