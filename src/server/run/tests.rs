use std::ffi::OsString;
use std::sync::{Arc, Mutex};

use rustix::process::{Signal, getpid, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::*;
use crate::config::{Invocation, load};

fn config(data_dir: &std::path::Path) -> Config {
    let line = "-config= -kafka-address localhost:0 -address 127.0.0.1:0 -admin-address 127.0.0.1:0 -data-dir";
    let arguments = line.split(' ').map(OsString::from).chain([data_dir.into()]);
    match load(arguments, []).unwrap() {
        Invocation::Run(config) => *config,
        other => panic!("{other:?}"),
    }
}

/// Says on `events` where it listens, then sends back what it is sent.
fn echo(events: mpsc::Sender<String>) -> Serve {
    Box::new(move |sockets, stop| {
        Box::pin(async move {
            let listener = sockets.into_iter().next().unwrap();
            events.send(listener.local.to_string()).await.unwrap();
            loop {
                let mut socket = tokio::select! {
                    accepted = listener.socket.accept() => accepted.unwrap().0,
                    () = stop.cancelled() => break,
                };
                let mut byte = [0];
                socket.read_exact(&mut byte).await.unwrap();
                socket.write_all(&byte).await.unwrap();
            }
            events.send("front ended".to_owned()).await.unwrap();
        })
    })
}

fn terminate() {
    kill_process(getpid(), Signal::TERM).unwrap();
}

// One test for all that waits for signals: they reach the whole process.
#[tokio::test]
async fn the_server_ends_in_order() {
    a_front_end_that_ends_by_itself_ends_the_server().await;
    a_stop_ends_fronts_before_what_stands_behind_and_a_second_signal_ends_the_wait().await;
}

async fn a_stop_ends_fronts_before_what_stands_behind_and_a_second_signal_ends_the_wait() {
    let dir = tempfile::tempdir().unwrap();
    for second_signal in [false, true] {
        let (events, mut happened) = mpsc::channel(10);
        let health = Arc::new(Mutex::new(None));
        let (seen, config) =
            (Arc::clone(&health), config(&dir.path().join(second_signal.to_string())));
        let open = move |context: Context| async move {
            assert_eq!(context.health.state(), admin::State::Unready);
            *seen.lock().unwrap() = Some(context.health);
            let behind = events.clone();
            let stop: Stop = Box::new(move |_deadline| {
                Box::pin(async move {
                    behind.send("parts ended".to_owned()).await.unwrap();
                    if second_signal {
                        std::future::pending::<()>().await;
                    }
                })
            });
            let quiet: Serve = Box::new(|_, stop| Box::pin(stop.cancelled_owned()));
            Ok(Parts { kafka: Some(echo(events)), tlog: Some(quiet), stop: Some(stop) })
        };
        let server = task::spawn("server", run_with(config, open));
        let address = happened.recv().await.unwrap();
        let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
        client.write_all(b"x").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'x');
        let health = health.lock().unwrap().clone().unwrap();
        assert_eq!(health.state(), admin::State::Ok, "{:?}", health.findings());

        terminate();
        assert_eq!(happened.recv().await.unwrap(), "front ended");
        assert_eq!(happened.recv().await.unwrap(), "parts ended");
        assert_eq!(health.state(), admin::State::Unready);
        if second_signal {
            terminate();
            assert!(matches!(server.await.unwrap(), Err(Error::StoppedAtOnce)));
        } else {
            server.await.unwrap().unwrap();
        }
    }
}

#[tokio::test]
async fn a_taken_port_is_told_with_the_option_before_anything_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = config(dir.path());
    config.tlog_address.port = taken.local_addr().unwrap().port();
    let opened = |_| async { panic!("opened") };
    let error = run_with(config, opened).await.unwrap_err();
    assert!(error.to_string().contains("free the port or give -address another one"), "{error}");
    assert_eq!(error.exit_code(), 1);
}

async fn a_front_end_that_ends_by_itself_ends_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let open = |_| async {
        let serve: Serve = Box::new(|_, _| Box::pin(async {}));
        Ok(Parts { tlog: Some(serve), ..Parts::default() })
    };
    let error = run_with(config(dir.path()), open).await.unwrap_err();
    assert!(matches!(error, Error::Ended { name: "tlog" }), "{error}");
    // The lock is free again.
    DataDir::lock(dir.path()).unwrap();
}
