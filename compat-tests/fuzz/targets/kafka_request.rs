#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    tlog_fuzz::kafka_request::run(input);
});
