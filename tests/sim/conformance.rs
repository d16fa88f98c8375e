//! The store of the simulation keeps the rules that both real ones keep: a model that is wrong proves nothing. The rules are
//! those of `tests/store`, as far as the engine needs them.

use std::sync::Arc;

use hookpost::store::Store;

use crate::backend::Backend;

/// Stamps every rule out as a test.
macro_rules! rules {
    ($($topic:ident { $($rule:ident,)+ })+) => {
        $(mod $topic { $(
            #[tokio::test]
            async fn $rule() {
                crate::suite::$topic::$rule(&super::Backend::default()).await;
            }
        )+ })+
    };
}

impl Backend {
    /// A process's store, which it has not acquired.
    pub fn open(&self) -> Arc<dyn Store> {
        self.process()
    }

    pub async fn owned(&self) -> Arc<dyn Store> {
        let store = self.open();
        assert!(store.acquire().await.unwrap(), "a fresh store has no other owner");
        store
    }
}

rules! {
    commit {
        a_delivery_and_its_log_read_back_as_they_were_written,
        every_byte_of_a_payload_survives,
        a_full_batch_is_stored,
        an_empty_batch_is_no_error,
        the_same_batch_twice_stores_one_of_each,
        a_later_retry_replaces_the_earlier,
        of_two_attempts_in_a_batch_the_last_has_the_last_word,
        a_settled_delivery_has_no_retry,
        a_position_is_replaced_and_removed,
        the_watermark_is_kept_until_it_moves,
        stored_names_those_that_are_and_keeps_the_order,
        what_was_committed_is_there_after_a_restart,
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
}
