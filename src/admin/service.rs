//! The HTTP service.

use std::io;

use axum::Router;
use axum::extract::State as Shared;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Json, Response};
use axum::routing::get;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::health::{Finding, Health, State};
use super::metrics::Metrics;
use super::page;

#[derive(Clone)]
struct Service {
    health: Health,
    metrics: Metrics,
}

/// Answers on `listener` until `stop`, then finishes what is being answered.
///
/// # Errors
/// As the system gives them for the socket.
pub async fn serve(
    listener: TcpListener,
    health: Health,
    metrics: Metrics,
    stop: CancellationToken,
) -> io::Result<()> {
    let routes = Router::new()
        .route("/", get(status_page))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(show_metrics))
        .with_state(Service { health, metrics });
    axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await
}

/// The answer itself is the proof: it needs a turn of the event loop.
async fn livez() -> Response {
    Json(serde_json::json!({ "live": true })).into_response()
}

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    state: State,
    findings: Vec<Finding>,
}

async fn readyz(Shared(service): Shared<Service>) -> Response {
    let state = service.health.state();
    let ready = state != State::Unready;
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let findings = service.health.findings();
    (status, Json(Readiness { ready, state, findings })).into_response()
}

async fn show_metrics(Shared(service): Shared<Service>) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match service.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn status_page(Shared(service): Shared<Service>) -> Response {
    let page = page::render(service.health.state(), &service.health.findings());
    let policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(page)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn ask(address: std::net::SocketAddr, path: &str) -> String {
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn readiness_follows_the_findings() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (health, stop) = (Health::new(), CancellationToken::new());
        let serving = crate::task::spawn(
            "admin",
            serve(listener, health.clone(), Metrics::new(), stop.clone()),
        );

        health.report(Finding::unready("recovery", "reading", "wait"));
        let answer = ask(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains(r#""ready":false,"state":"unready""#), "{answer}");
        assert!(answer.contains(r#""cure":"wait""#), "{answer}");
        assert!(ask(address, "/livez").await.starts_with("HTTP/1.1 200 "));

        health.report(Finding::degraded("server", "away", "start it"));
        health.clear("recovery");
        let answer = ask(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.contains(r#""state":"degraded""#), "{answer}");
        assert!(ask(address, "/").await.contains("<td>server</td>"));
        assert!(ask(address, "/metrics").await.contains("# EOF"));
        assert!(ask(address, "/nowhere").await.starts_with("HTTP/1.1 404 "));

        stop.cancel();
        serving.await.unwrap().unwrap();
        assert!(tokio::net::TcpStream::connect(address).await.is_err());
    }
}
