//! Which adapter is chosen, on lists that no machine needs to have.

use super::*;

fn adapter(name: &str, kind: &'static str) -> AdapterInfo {
    AdapterInfo { name: name.into(), kind, backend: "vulkan".into(), driver: String::new() }
}

fn chosen(names: &[(&str, &'static str)], options: GpuOptions) -> std::result::Result<String, String> {
    let infos: Vec<AdapterInfo> = names.iter().map(|(name, kind)| adapter(name, kind)).collect();
    choice(&infos, &options).map(|at| infos[at].name.clone()).map_err(|error| error.to_string())
}

const BOTH: [(&str, &str); 3] = [("Lava", "software"), ("Small", "integrated"), ("Big", "discrete")];

#[test]
fn power_decides_between_kinds() {
    assert_eq!(chosen(&BOTH, GpuOptions::default()).unwrap(), "Big");
    assert_eq!(chosen(&BOTH, GpuOptions { power: Power::Low, ..GpuOptions::default() }).unwrap(), "Small");
}

#[test]
fn a_part_of_the_name_in_any_case_decides_before_power() {
    let named = |name: &str| GpuOptions { name: Some(name.into()), ..GpuOptions::default() };
    assert_eq!(chosen(&BOTH, named("lav")).unwrap(), "Lava");
    let error = chosen(&BOTH, named("none such")).unwrap_err();
    assert!(error.contains("none such") && error.contains("Small (integrated"), "{error}");
}

#[test]
fn a_refused_software_adapter_is_an_error_that_says_so() {
    let refusing = GpuOptions { refuse_software: true, ..GpuOptions::default() };
    assert_eq!(chosen(&BOTH, refusing.clone()).unwrap(), "Big");
    let error = chosen(&BOTH[..1], refusing).unwrap_err();
    assert!(error.contains("only a software adapter"), "{error}");
}

#[test]
fn no_adapter_is_an_error_that_says_what_to_install() {
    let error = chosen(&[], GpuOptions::default()).unwrap_err();
    assert!(error.contains("mesa-vulkan-drivers"), "{error}");
}

#[test]
fn an_adapter_without_compute_shaders_is_an_error_that_names_it() {
    let old = adapter("Old", "integrated");
    assert!(check_features(&old, wgpu::DownlevelFlags::all()).is_ok());
    let error = check_features(&old, wgpu::DownlevelFlags::all() - wgpu::DownlevelFlags::COMPUTE_SHADERS);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("Old (integrated") && error.contains("no compute shaders"), "{error}");
}
