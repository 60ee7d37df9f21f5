//! The kernel wants BTF of a function that is handed to `bpf_loop`, which `observe` has; the linker makes it
//! from the debug information. `lookup` goes without, because it is loaded for every sandbox.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bin=observe=--btf");
}
