// log(sum(exp(x))) - x[target] of each row, 0 where ignored, and the log-sum.
//
// Twin of src/device/cpu/cross_entropy.rs. One workgroup computes one row.

struct Params {
    rows: u32,
    width: u32,
    offset: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read> targets: array<u32>;
@group(0) @binding(3) var<storage, read_write> losses: array<f32>;
@group(0) @binding(4) var<storage, read_write> log_sums: array<f32>;

@compute @workgroup_size(ROW_GROUP)
fn main(group: Group, here: Place) {
    let first = first_of(here);
    let row = row_of(group, here);
    if (row >= params.rows) { return; }
    let source = params.offset + row * params.width;
    var largest = LOWEST;
    for (var j = first; j < params.width; j += ROW_STEP) {
        largest = max(largest, logits[source + j]);
    }
    largest = row_max(largest, here);
    var sum = 0.0;
    for (var j = first; j < params.width; j += ROW_STEP) {
        sum += exp_of(logits[source + j] - largest);
    }
    let log_sum = largest + ln(row_sum(sum, here));
    if (first == 0u) {
        let hit = targets[row];
        var loss = 0.0;
        if (hit != IGNORED) {
            loss = log_sum - logits[source + hit];
        }
        losses[row] = loss;
        log_sums[row] = log_sum;
    }
}
