//! `hookpost`: see `hookpost --help`.

fn main() -> std::process::ExitCode {
    hookpost::cli::run()
}
