//! The program with promises broken on purpose, for the tests that have to notice: `src/negative_controls.rs`.

fn main() -> std::process::ExitCode {
    hookpost::cli::run()
}
