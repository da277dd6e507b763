// Matrix product, first rung: one invocation computes one element and reads all it needs.
//
// Twin of src/device/cpu/matmul.rs: y = scale·a·b + add. Used where there is too little work for
// tiles.

@compute @workgroup_size(ELEMENT_GROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups);
    let matrix = i / (params.m * params.n);
    if (matrix >= params.batch) { return; }
    let row = i / params.n % params.m;
    let column = i % params.n;
    let a_row = a_base(matrix) + row * params.a_row;
    let b_column = b_base(matrix) + column * params.b_column;
    var sum = 0.0;
    for (var k = 0u; k < params.k; k++) {
        sum += a[a_row + k * params.a_column] * b[b_column + k * params.b_row];
    }
    store(matrix, row, column, sum);
}
