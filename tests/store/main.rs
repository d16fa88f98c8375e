//! The store's rules, checked on both backends: each rule is written once, in `suite/`, and run as `sqlite::…` and
//! `postgres::…`. A rule that is not listed below is dead code, and the build says so.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod backend;
mod fixtures;
mod postgres_only;
mod suite;

/// Stamps every rule out as a test of each backend.
macro_rules! conformance {
    ($($topic:ident { $($rule:ident,)+ })+) => {
        mod sqlite {
            $(mod $topic { $(
                #[tokio::test]
                async fn $rule() {
                    let backend = crate::backend::Backend::sqlite();
                    backend.check(crate::suite::$topic::$rule(&backend)).await;
                }
            )+ })+
        }
        mod postgres {
            $(mod $topic { $(
                #[tokio::test]
                async fn $rule() {
                    let backend = crate::backend::Backend::postgres().await;
                    backend.check(crate::suite::$topic::$rule(&backend)).await;
                }
            )+ })+
        }
    };
}

conformance! {
    commit {
        a_delivery_and_its_log_read_back_as_they_were_written,
        every_byte_of_a_payload_survives,
        a_payload_of_a_mebibyte_survives,
        a_text_with_nul_is_stored_without_harm_to_its_neighbours,
        a_full_batch_is_stored,
        an_empty_batch_is_no_error,
        the_same_batch_twice_stores_one_of_each,
        a_refused_commit_leaves_nothing,
        a_later_retry_replaces_the_earlier,
        of_two_attempts_in_a_batch_the_last_has_the_last_word,
        a_settled_delivery_has_no_retry,
        a_position_is_replaced_and_removed,
        the_watermark_is_kept_until_it_moves,
        stored_names_those_that_are_and_keeps_the_order,
        what_was_committed_is_there_after_a_restart,
    }
    ownership {
        nobody_commits_before_acquiring,
        the_owner_acquires_again,
        a_second_process_gets_the_store_only_when_the_first_is_gone,
        a_second_process_can_read_but_not_commit,
        migrating_again_and_at_the_same_time_is_no_error,
        migrating_works_while_another_process_owns_the_store,
        ping_answers,
        its_identity_is_the_same_for_every_process_and_another_stores_is_another,
        it_says_its_name,
    }
    recovery {
        a_new_store_has_nothing_to_recover,
        what_no_log_mentions_is_untried,
        what_is_up_to_the_watermark_counts_as_tried,
        a_subscription_with_a_position_is_not_untried,
        a_disabled_subscription_is_recovered,
        a_deleted_subscription_is_not_recovered,
        the_newest_id_is_the_higher_of_deliveries_and_logs,
        the_newest_id_outlives_what_is_pruned,
        the_newest_id_is_no_lower_than_a_position,
        pending_is_the_position_and_the_first_retries,
        pending_of_an_unknown_subscription_is_empty,
    }
    backlog {
        a_page_is_in_order_of_id_and_starts_after_the_cursor,
        a_page_leaves_out_what_was_attempted,
        a_page_holds_at_most_its_limit,
        a_page_stops_before_it_has_too_many_bytes,
        a_page_holds_one_however_large,
        a_page_holds_one_subscription_only,
        an_exactly_full_last_page_is_complete,
        the_size_is_what_is_untried_above_the_cursor_and_all_retries,
        the_size_is_counted_no_further_than_its_cap,
        a_delivery_that_failed_in_the_batch_that_brought_it_is_no_backlog,
    }
    retries {
        they_come_by_due_time_then_by_delivery,
        they_stop_at_the_limit,
        payloads_come_for_what_is_untried_or_to_be_retried,
        ordering_keys_come_with_deliveries_and_with_retries,
        traces_come_with_deliveries_and_with_events,
        what_waits_is_counted_up_to_a_cap_and_the_oldest_due_is_of_an_enabled_one,
        due_subscriptions_come_earliest_first,
        due_subscriptions_stop_at_the_limit,
        what_is_due_later_is_not_due,
        a_disabled_subscription_is_not_due,
        a_deleted_subscription_is_not_due,
        a_retry_written_after_its_subscription_was_deleted_is_not_due,
    }
    status {
        an_unknown_delivery_is_none,
        a_delivery_lists_its_attempts_oldest_first,
        a_delivery_shows_its_retry,
        a_delivery_outlives_its_subscription,
        logs_come_newest_first_in_pages,
        logs_of_another_subscription_are_left_out,
    }
    search {
        deliveries_are_found_newest_or_oldest_first_in_pages,
        each_state_is_found_and_nothing_else,
        what_has_changed_its_state_is_found_in_the_last_one,
        what_is_pending_below_the_watermark_is_found_behind_its_subscriptions_position,
        what_is_found_has_everything_that_is_named,
        a_tenants_deliveries_come_in_order_however_many_subscriptions_it_has,
        a_delivery_that_is_found_says_what_it_is,
        a_step_looks_at_no_more_than_it_may_and_says_how_far_it_came,
        a_subscription_is_found_among_many_rows_of_others,
        payloads_come_by_id_up_to_so_many_bytes_and_one_however_large,
    }
    replays {
        a_replay_reads_back_and_ends_at_the_last_id_of_now,
        one_of_a_subscription_runs_at_a_time_and_so_many_of_a_tenant,
        progress_is_written_with_the_deliveries_and_once,
        an_ended_replay_stays_as_it_ended_and_its_cancelling_is_on_record_once,
        deleting_a_subscription_ends_its_replay_and_keeps_whose_it_was,
        old_replays_are_pruned_and_those_that_run_are_not,
    }
    subscriptions {
        what_was_created_reads_back,
        an_unknown_one_is_none,
        ids_are_small_integers_that_rise,
        an_id_is_never_given_again,
        pages_come_by_id,
        an_update_leaves_out_what_it_does_not_name,
        an_update_replaces_what_it_names,
        a_secret_can_be_taken_away,
        one_can_be_disabled_and_enabled,
        every_change_raises_the_version,
        updating_or_deleting_an_unknown_one_changes_nothing,
        versions_come_for_those_that_exist,
        deleting_takes_retries_and_position_and_leaves_deliveries_and_logs,
        two_may_share_a_target,
    }
    audit {
        a_record_is_read_back_as_it_was_written,
        records_are_found_by_what_by_whom_and_whose,
        pages_of_the_audit_follow_each_other,
        old_records_are_pruned_in_chunks,
    }
    changes {
        settings_read_back_as_they_were_written,
        a_change_made_from_an_old_version_is_overtaken_and_changes_nothing,
        whatever_disables_or_enables_leaves_a_record,
        a_change_that_makes_no_difference_leaves_no_record,
        records_come_in_pages,
        records_are_unannounced_oldest_first_until_they_were_announced,
        a_deleted_subscription_takes_its_records_along,
        a_dropped_backlog_ends_at_the_last_id_of_now,
        a_dropped_backlogs_retries_are_due_at_once,
        failing_is_saved_without_a_new_version,
        whoever_is_enabled_has_not_failed_yet,
    }
    secrets {
        everything_that_is_sealed_reads_back,
        a_reserved_id_is_given_once_whether_it_is_used_or_not,
        subscriptions_with_secrets_come_by_id_in_pages_and_others_not_at_all,
        resealing_raises_the_version_and_is_no_change_that_anybody_made,
        what_changed_meanwhile_is_not_resealed,
        a_master_key_is_made_known_once,
        only_keys_under_which_nothing_is_sealed_are_forgotten,
    }
    migration {
        what_a_later_version_has_migrated_is_refused_with_what_to_run,
        what_the_first_version_has_written_is_read_and_goes_on,
    }
    janitor {
        preparing_twice_is_no_error,
        an_untried_delivery_that_is_too_old_ends_as_a_visible_failure,
        a_retried_delivery_that_is_too_old_ends_as_a_visible_failure,
        a_delivery_behind_its_subscriptions_position_is_expired,
        a_disabled_subscriptions_deliveries_expire_like_any_other,
        what_expired_and_was_pruned_is_in_no_backlog,
        what_is_finished_or_young_is_not_expired,
        expiring_stops_at_its_limit_and_says_so,
        a_deleted_subscriptions_deliveries_need_no_failure,
        pruning_takes_what_is_old_and_leaves_what_is_young,
        pruning_leaves_what_is_unfinished,
        pruning_takes_what_a_deleted_subscription_left,
        the_failure_of_an_expired_delivery_outlives_it,
        pruning_in_chunks_comes_to_an_end,
        a_delivery_of_an_event_that_is_too_old_ends_as_a_visible_failure,
        pruning_takes_old_events_and_leaves_young_ones,
        pruning_leaves_the_event_of_an_unfinished_delivery,
        pruning_events_in_chunks_comes_to_an_end,
    }
    events {
        an_event_reads_back_as_it_was_written,
        an_event_that_nobody_wanted_is_kept,
        an_unknown_event_is_none,
        stored_events_names_those_that_are_and_keeps_the_order,
        an_events_payload_is_stored_once,
        every_delivery_reads_back_the_payload_byte_for_byte,
        a_backlog_holds_deliveries_of_events_and_others_in_order,
        a_page_counts_the_bytes_of_an_events_payload,
        a_delivery_says_which_event_it_is_of,
        an_events_deliveries_come_by_id_in_pages,
        an_events_deliveries_show_how_they_stand,
        the_same_fan_out_twice_stores_one_of_each,
        a_refused_fan_out_leaves_nothing,
        deliveries_of_events_are_recovered_like_any_other,
        the_newest_id_may_be_an_events,
    }
    matching {
        an_exact_pattern_matches_its_type_only,
        a_wildcard_matches_below_its_prefix,
        a_star_and_no_patterns_match_every_type,
        hookposts_own_events_match_those_who_name_them,
        one_that_matches_twice_is_named_once_and_all_come_by_id,
        another_tenants_do_not_match,
        a_disabled_one_does_not_match_until_it_is_enabled,
        a_deleted_one_does_not_match,
        changed_patterns_are_followed,
        a_subscription_keeps_its_tenant,
    }
    keys {
        a_held_key_reads_back_as_it_was_written,
        only_those_asked_for_are_found,
        another_scope_is_another_key,
        a_key_that_stands_for_something_else_refuses_the_whole_batch,
        one_batch_cannot_give_a_key_to_two,
        the_same_batch_twice_holds_its_keys_once,
        keys_are_pruned_from_the_cutoff_back_and_can_be_held_again,
        keys_are_pruned_in_chunks_that_come_to_an_end,
    }
    api_keys {
        a_key_reads_back_as_it_was_made,
        only_a_hash_of_a_key_is_stored,
        more_live_keys_than_the_most_are_refused_and_dead_ones_do_not_count,
        keys_come_by_prefix_in_pages,
        every_change_is_found_after_the_revision_before_it,
        changes_at_the_same_time_have_revisions_of_their_own,
        a_revoked_key_keeps_its_time_and_stays_listed,
        dead_keys_are_pruned_and_live_ones_stay,
        the_last_place_for_a_key_is_taken_once,
        revocations_at_the_same_time_leave_one_record,
        the_revision_is_that_of_the_last_change,
    }
    tenants {
        a_list_is_of_one_tenant_or_of_all,
        a_tenant_has_up_to_its_quota_and_what_is_deleted_makes_room,
        the_last_place_is_taken_once,
        a_tenant_that_has_none_left_is_forgotten_and_may_come_back,
        a_delivery_is_its_subscriptions_tenants_also_after_the_deletion,
        whose_a_deleted_subscription_was_is_forgotten_after_its_deliveries,
        a_delivery_of_a_subscription_that_nobody_remembers_is_nobodys,
    }
}
