//! The native module stays in memory once it is loaded: a thread of its own runs its code, even
//! when the Lua VM that loaded it has ended.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
