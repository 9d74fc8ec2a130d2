//! What is not gRPC at a port that speaks it: browsers, JSON, and those who are wrong there. Owns gRPC-Web and what a browser asks
//! before it calls; what is called is decided behind it, and whether a page may call at all in `origin`.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::any,
};
use http::{
    HeaderName, Method, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use tonic_web::GrpcWebLayer;
use tower::ServiceExt;
use tower_http::cors::CorsLayer;

use super::{
    json,
    server::{
        access_service_server::SERVICE_NAME as ACCESS_SERVICE,
        hookstream_service_server::SERVICE_NAME as HOOKSTREAM_SERVICE,
    },
};
use crate::{limits, origin::AllowedOrigins};

/// What a middleware needs to send a request of a browser its own way.
struct Browsers {
    allowed: AllowedOrigins,
    router: Router,
}

/// The routes, for browsers too.
pub(super) fn with_browsers(router: Router, allowed: AllowedOrigins) -> Router {
    let browsers = Arc::new(Browsers {
        router: for_browsers(router.clone(), &allowed),
        allowed,
    });
    router.layer(middleware::from_fn_with_state(browsers, turn_off))
}

/// The routes under which a page that is served beside them calls.
pub(super) fn beside_pages(router: &Router, allowed: AllowedOrigins) -> Router {
    let router = with_browsers(router.clone(), allowed);
    let call = any(move |request: Request| router.oneshot(request));
    [HOOKSTREAM_SERVICE, ACCESS_SERVICE]
        .iter()
        .fold(Router::new(), |routes, service| {
            routes.route(&format!("/{service}/{{call}}"), call.clone())
        })
}

fn for_browsers(router: Router, allowed: &AllowedOrigins) -> Router {
    let named = HeaderName::from_static;
    let cors = CorsLayer::new()
        .allow_origin(allowed.values().to_vec())
        .allow_methods([Method::POST])
        .allow_headers([
            CONTENT_TYPE,
            AUTHORIZATION,
            named("x-grpc-web"),
            named("x-user-agent"),
            named("grpc-timeout"),
            named("traceparent"),
            named("connect-protocol-version"),
            named("connect-timeout-ms"),
        ])
        .expose_headers(["grpc-status", "grpc-message", "grpc-status-details-bin"].map(named))
        .max_age(limits::CORS_MAX_AGE);
    Router::new()
        .fallback_service(router.clone())
        .layer(GrpcWebLayer::new())
        .layer(middleware::from_fn_with_state(router, json::translate))
        .layer(cors)
}

/// Sends requests of browsers, and those in JSON, their own way; all others do not notice.
async fn turn_off(State(browsers): State<Arc<Browsers>>, request: Request, next: Next) -> Response {
    let content_type = request.headers().get(CONTENT_TYPE);
    let begins_with = |start: &[u8]| content_type.is_some_and(|value| value.as_bytes().starts_with(start));
    let is_web = begins_with(b"application/grpc-web") || json::is_call(&request);
    if !is_web && request.method() != Method::OPTIONS {
        if !begins_with(b"application/grpc") {
            // gRPC says no with 200, too, and a delivery that came to the wrong port would count as delivered.
            let reason = "this port speaks gRPC, and JSON at the paths of its methods; deliveries go to the ingress (--ingress-listen)\n";
            return (StatusCode::UNSUPPORTED_MEDIA_TYPE, reason).into_response();
        }
        return next.run(request).await;
    }
    if is_web && !browsers.allowed.admit(request.headers(), request.uri()) {
        let reason = "pages of this origin may not call: allow it with --allowed-origins\n";
        return (StatusCode::FORBIDDEN, reason).into_response();
    }
    let answered = browsers.router.clone().oneshot(request.map(Body::new)).await;
    answered.unwrap_or_else(|never| match never {})
}
