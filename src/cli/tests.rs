//! The command line as it is typed.

use super::*;
use crate::config::{environment_names, resolve};

fn parsed(arguments: &[&str]) -> Result<Cli, clap::Error> {
    Cli::try_parse_from([&["hookpost"], arguments].concat())
}

fn help_of(arguments: &[&str]) -> String {
    parsed(arguments).expect_err("help").to_string()
}

#[test]
fn the_definition_holds() {
    Cli::command().debug_assert();
}

#[test]
fn no_command_is_not_an_error() {
    assert!(parsed(&[]).expect("parsed").command.is_none());
}

#[test]
fn flags_reach_the_configuration() {
    let arguments = ["serve", "--dev", "--listen", "[::1]:9", "--data-dir", "/d", "--database-url", "postgres://h/d"];
    let Some(Command::Serve(flags)) = parsed(&arguments).expect("parsed").command else { panic!("serve") };
    let config = resolve(None, &Default::default(), &flags).expect("a configuration").config;
    assert_eq!(config.listen.to_string(), "[::1]:9");
    assert!(config.dev && config.database_url.is_some() && config.data_dir.ends_with("d"));
}

#[test]
fn a_mistyped_command_or_flag_is_a_usage_error_that_helps() {
    let error = parsed(&["serv"]).expect_err("refused");
    assert!(error.exit_code() == 2 && error.to_string().contains("'serve'"), "{error}");
    let error = parsed(&["serve", "--lissten", "x"]).expect_err("refused");
    assert!(error.exit_code() == 2 && error.to_string().contains("'--listen'"), "{error}");
}

#[test]
fn the_help_teaches_the_start_and_names_every_variable() {
    let text = help_of(&["--help"]);
    assert!(text.contains("hookpost serve --dev") && text.contains("hookpost listen"), "{text}");
    let text = help_of(&["serve", "--help"]);
    for name in environment_names() {
        assert!(text.contains(name), "{name} is missing in {text}");
    }
}

/// What is longer is broken in the middle of a column: the width is that of help that no terminal reads.
#[test]
fn examples_are_shown_as_they_are_written() {
    fn each(command: &clap::Command, visit: &mut impl FnMut(&clap::Command)) {
        visit(command);
        command.get_subcommands().for_each(|inner| each(inner, visit));
    }
    let mut seen = 0;
    each(&Cli::command(), &mut |command| {
        let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        for line in text.lines() {
            assert!(line.chars().count() <= 100, "{}: {line}", command.get_name());
            seen += 1;
        }
    });
    assert!(seen > 50);
}

#[test]
fn completions_know_the_commands() {
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        assert!(completions(shell).contains("healthcheck"), "{shell}");
    }
}

#[test]
fn settings_are_shown_in_columns_or_as_json() {
    let env = [("DATABASE_URL".to_owned(), "postgres://app:hunter2@db/app".to_owned())].into();
    let settings = resolve(None, &env, &Flags::default()).expect("a configuration").settings;
    let text = show::settings(&settings, false);
    let line = text.lines().find(|line| line.starts_with("database_url")).expect("a line");
    let words: Vec<_> = line.split_whitespace().collect();
    assert_eq!(words, ["database_url", "postgres://app:***@db/app", "environment", "variable", "DATABASE_URL"]);
    let array: Vec<serde_json::Value> = serde_json::from_str(&show::settings(&settings, true)).expect("JSON");
    assert_eq!(array.len(), settings.len());
    assert_eq!(array[0], serde_json::json!({"name": "listen", "value": "127.0.0.1:8000", "source": "default"}));
}
