//! Every route of the tables: nothing without the token, nothing that breaks with it.

use tower::ServiceExt;
use trainyard_core::coordinator as core;

use super::authz::Action;
use super::*;
use crate::clock::ManualClock;
use crate::driver;
use crate::store::{MemoryStore, Store};

const TOKEN: &str = "a-token-for-tests-only";

async fn service() -> (Router, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let logs = Arc::new(LogStore::open(dir.path()).unwrap());
    let sessions = Arc::new(Sessions::new());
    let store = MemoryStore::new();
    let reader = store.reader();
    let parts = driver::Parts {
        config: core::Config::default(),
        store: Box::new(store),
        clock: Arc::new(ManualClock::default()),
        sessions: sessions.clone(),
        logs: logs.clone(),
    };
    let (driver, _end) = driver::start(parts).unwrap();
    let signer = Signer::new("key");
    let history = Arc::new(Mutex::new(History::default()));
    let agents = crate::grpc::Agents {
        driver: driver.clone(),
        sessions: sessions.clone(),
        logs: logs.clone(),
        history: history.clone(),
        reader: reader.clone(),
    };
    let grpc = crate::grpc::routes(agents).await.unwrap();
    let app = App::new(driver, reader, sessions, logs, history, signer, String::new());
    (router(app, grpc, Arc::new(Secret::new(TOKEN.to_owned()))), dir)
}

/// The template with a value for each parameter.
fn path_of(route: &Route) -> String {
    let path: Vec<&str> =
        route.path.split('/').map(|s| if s.starts_with('{') { "default" } else { s }).collect();
    format!("{}?api-version={}", path.join("/"), api_version::CURRENT)
}

async fn call(router: &Router, method: &str, path: &str, token: Option<&str>) -> (StatusCode, String) {
    let mut request = http::Request::builder().method(method).uri(path).header("host", "localhost:1");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let response = router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let status = response.status();
    // Streams without an end are not read.
    let endless = path.contains("/events") && status.is_success();
    let bytes = if endless {
        Default::default()
    } else {
        axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap()
    };
    (status, String::from_utf8_lossy(&bytes).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_route_answers_without_the_token() {
    let (router, _dir) = service().await;
    let mut open = Vec::new();
    for route in TABLES.into_iter().flatten() {
        if route.action == Action::Anything {
            open.push(route.path);
            continue;
        }
        for token in [None, Some("wrong"), Some(""), Some("a-token-for-tests-onl")] {
            let (status, body) = call(&router, route.method.as_str(), &path_of(route), token).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{} {}", route.method, route.path);
            assert!(body.contains("\"AuthenticationFailed\""), "{body}");
        }
    }
    assert_eq!(open, ["/healthz", "/api/v1/files/{ticket}/{*name}"]);
    // Deny by default: what does not exist is not told apart from what does.
    assert_eq!(call(&router, "GET", "/nothing/here", None).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(call(&router, "GET", "/healthz", None).await.0, StatusCode::OK);
    assert_eq!(call(&router, "GET", "/api/v1/files/x/y", None).await.0, StatusCode::FORBIDDEN);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_answers_with_the_token_and_in_arm_form() {
    let (router, _dir) = service().await;
    for route in TABLES.into_iter().flatten() {
        let (status, body) = call(&router, route.method.as_str(), &path_of(route), Some(TOKEN)).await;
        assert!(
            status != StatusCode::UNAUTHORIZED && status != StatusCode::NOT_FOUND
                || body.contains("\"error\""),
            "{}",
            route.path
        );
        assert!(
            !status.is_server_error() || status == StatusCode::NOT_IMPLEMENTED,
            "{} {}: {status} {body}",
            route.method,
            route.path
        );
        if status.is_client_error() {
            let error: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert!(error["error"]["code"].is_string() && error["error"]["message"].is_string(), "{body}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_told_in_arm_form() {
    let (router, _dir) = service().await;
    let (status, body) = call(&router, "GET", "/nothing", Some(TOKEN)).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(body, r#"{"error":{"code":"NotFound","message":"There is nothing at /nothing."}}"#);
    let (status, body) = call(&router, "DELETE", "/api/v1/nodes", Some(TOKEN)).await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{body}");
    assert!(body.contains("\"MethodNotAllowed\""), "{body}");
    let list = "/subscriptions/s/providers/Microsoft.BatchAI/workspaces";
    for (query, code) in
        [("", "MissingApiVersionParameter"), ("?api-version=2017-01-01", "InvalidApiVersionParameter")]
    {
        let (status, body) = call(&router, "GET", &format!("{list}{query}"), Some(TOKEN)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(body.contains(code), "{body}");
    }
}

#[test]
fn only_the_literals_of_a_path_change_their_case() {
    let paths = CanonicalPath::new();
    let job = "/SUBSCRIPTIONS/S/resourcegroups/RG/providers/microsoft.batchai/WORKSPACES/Jobs/experiments/E/jobs/JOBS/Terminate";
    let mut request =
        http::Request::builder().uri(format!("http://h:1{job}?API-version=x")).body(()).unwrap();
    paths.apply(&mut request);
    assert_eq!(
        request.uri().to_string(),
        "http://h:1/subscriptions/S/resourceGroups/RG/providers/Microsoft.BatchAI/workspaces/Jobs/experiments/E/jobs/JOBS/terminate?API-version=x"
    );
}
