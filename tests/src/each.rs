//! The list of sessions, as one test function each.

/// Expands to a module with one test per session file, each of which returns `$play(name)`.
///
/// The list is checked against the directory by a test, so that no session is forgotten.
#[macro_export]
macro_rules! each_session {
    ($play:path) => {
        $crate::each_session! { $play:
            a_background_process_does_not_outlive_the_sandbox = "background-process",
            a_build_with_make_runs = "make-and-cc",
            a_cut_stream_is_tried_again = "cut-stream",
            a_file_is_written_in_the_workspace = "write-file",
            a_long_session_builds_up = "long-session",
            a_program_is_edited_and_run = "edit-and-run-python",
            a_rate_limit_is_waited_for = "rate-limited",
            an_overloaded_service_is_tried_again = "overloaded",
            an_unnamed_host_is_refused_with_the_reason = "curl-denied",
            big_output_arrives = "big-output",
            claudes_own_tools_work_in_the_workspace_only = "claude-tools",
            codex_patches_files = "codex-patch",
            deep_directories_work = "deep-directories",
            failing_commands_keep_their_codes = "failing-command",
            links_lead_nowhere_outside = "links-out",
            odd_names_work = "odd-names",
            parallel_calls_find_their_results = "parallel-calls",
            shell_plumbing_works = "shell-plumbing",
            the_ssh_key_and_the_git_hooks_are_out_of_reach = "canary-and-hook",
            work_is_committed = "git-commit",
        }
    };
    ($play:path: $($test:ident = $name:literal,)*) => {
        $(#[test]
        fn $test() -> $crate::Outcome {
            $play($name)
        })*

        #[test]
        fn every_session_file_has_its_test() -> $crate::Outcome {
            let mut listed = vec![$($name),*];
            listed.sort_unstable();
            assert_eq!(listed, $crate::session::names()?);
            Ok(())
        }
    };
}
