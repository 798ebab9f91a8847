//! What librdkafka can do and its safe binding has no function for: ask what a user may do with topics, and hand a token to
//! a client whose events nobody reads.
//!
//! The only unsafe code of this crate. Each pointer has one owner, which frees it; what lies within an answer is copied
//! before the answer goes; and the client outlives every call, since it is borrowed.
//!
//! Source: librdkafka's `rdkafka.h` (DescribeTopics, `rd_kafka_oauthbearer_set_token`); KIP-430.
#![allow(unsafe_code, reason = "the binding has no safe function for these calls")]

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char};
use std::ptr::{self, NonNull};
use std::slice;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::bindings as native;
use rdkafka::client::{Client, OAuthToken};
use rdkafka::types::RDKafkaRespErr;

/// A pointer that is freed with its owner.
struct Owned<T> {
    pointer: NonNull<T>,
    free: unsafe extern "C" fn(*mut T),
}

impl<T> Owned<T> {
    /// None for a null pointer.
    ///
    /// # Safety
    /// Nobody else frees the pointer, and `free` is what frees it.
    unsafe fn of(pointer: *mut T, free: unsafe extern "C" fn(*mut T)) -> Option<Self> {
        Some(Owned { pointer: NonNull::new(pointer)?, free })
    }

    fn as_ptr(&self) -> *mut T {
        self.pointer.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: by the promise of `of`, and a value is dropped once.
        unsafe { (self.free)(self.as_ptr()) }
    }
}

/// Whether the client's user may write to each of the topics; topics of which the brokers do not tell are left out. Blocks
/// for `timeout` at most.
///
/// # Errors
/// In words: the brokers have not answered, or refused the question.
pub(super) fn may_write<C: ClientContext>(
    client: &Client<C>,
    topics: &[&str],
    timeout: Duration,
) -> Result<BTreeMap<String, bool>, String> {
    let names: Vec<_> = topics.iter().filter_map(|name| CString::new(*name).ok()).collect();
    let mut pointers: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
    let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let gone = || "librdkafka has no memory for the question".to_owned();
    // SAFETY: the client lives as long as it is borrowed, and the names, which librdkafka copies, until the end; each
    // pointer is given to the function that frees its kind.
    let answer = unsafe {
        let queue =
            Owned::of(native::rd_kafka_queue_new(client.native_ptr()), native::rd_kafka_queue_destroy);
        let queue = queue.ok_or_else(gone)?;
        let collection =
            native::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
        let collection = Owned::of(collection, native::rd_kafka_TopicCollection_destroy).ok_or_else(gone)?;
        let kind = native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        let options = native::rd_kafka_AdminOptions_new(client.native_ptr(), kind);
        let options = Owned::of(options, native::rd_kafka_AdminOptions_destroy).ok_or_else(gone)?;
        // Both complain of what is out of range alone; then the defaults hold, and nothing is told.
        let refused = native::rd_kafka_AdminOptions_set_include_authorized_operations(options.as_ptr(), 1);
        drop(Owned::of(refused, native::rd_kafka_error_destroy));
        native::rd_kafka_AdminOptions_set_request_timeout(options.as_ptr(), millis, ptr::null_mut(), 0);
        native::rd_kafka_DescribeTopics(
            client.native_ptr(),
            collection.as_ptr(),
            options.as_ptr(),
            queue.as_ptr(),
        );
        // Before the queue goes.
        Owned::of(native::rd_kafka_queue_poll(queue.as_ptr(), millis), native::rd_kafka_event_destroy)
    };
    let answer = answer.ok_or_else(|| "the brokers do not answer in time".to_owned())?;
    // SAFETY: what is read belongs to the answer, which lives until the end of this function.
    unsafe { writable(answer.as_ptr()) }
}

/// # Safety
/// `answer` is an event that lives until this returns.
unsafe fn writable(answer: *mut native::rd_kafka_event_t) -> Result<BTreeMap<String, bool>, String> {
    // SAFETY: as promised; librdkafka gives null for an event of another kind.
    unsafe {
        if native::rd_kafka_event_error(answer) != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(text(native::rd_kafka_event_error_string(answer)));
        }
        let result = native::rd_kafka_event_DescribeTopics_result(answer);
        if result.is_null() {
            return Err("librdkafka gives another answer".to_owned());
        }
        let mut count = 0;
        let described = native::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        let mut known = BTreeMap::new();
        for topic in elements(described.cast_const(), count) {
            let mut count = 0;
            let allowed = native::rd_kafka_TopicDescription_authorized_operations(*topic, &raw mut count);
            // Null if this broker does not tell.
            if !allowed.is_null() {
                let write = native::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_WRITE;
                let may = elements(allowed, count).contains(&write);
                known.insert(text(native::rd_kafka_TopicDescription_name(*topic)), may);
            }
        }
        Ok(known)
    }
}

/// # Safety
/// `first` is null, or `count` elements lie there for `'a`.
unsafe fn elements<'a, T>(first: *const T, count: usize) -> &'a [T] {
    // librdkafka may give any address for none.
    if first.is_null() || count == 0 {
        return &[];
    }
    // SAFETY: as promised.
    unsafe { slice::from_raw_parts(first, count) }
}

/// # Safety
/// `text` is null, or ends with a zero.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: as promised.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// Hands a token to a client for questions, which is never polled and so never asks for one.
///
/// # Errors
/// In words: librdkafka does not take it.
pub(super) fn log_in<C: ClientContext>(client: &Client<C>, token: &OAuthToken) -> Result<(), String> {
    let zero = |_| "it has a zero in it".to_owned();
    let value = CString::new(token.token.as_str()).map_err(zero)?;
    let principal = CString::new(token.principal_name.as_str()).map_err(zero)?;
    let mut why = [0; 256];
    // SAFETY: the client lives as long as it is borrowed, both texts and the buffer until the end; librdkafka copies them.
    let code = unsafe {
        native::rd_kafka_oauthbearer_set_token(
            client.native_ptr(),
            value.as_ptr(),
            token.lifetime_ms,
            principal.as_ptr(),
            ptr::null_mut(),
            0,
            why.as_mut_ptr(),
            why.len(),
        )
    };
    if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
        return Ok(());
    }
    // SAFETY: librdkafka ends it with a zero.
    Err(unsafe { text(why.as_ptr()) })
}
