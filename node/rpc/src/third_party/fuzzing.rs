//! See the crate's `fuzzing.rs`.

use http::{Request, StatusCode};

use super::handlers::{self, Ask};
use super::route::Route;
use crate::PrivacyApi;

/// A request of which the body has been read. The status of the answer.
pub async fn third_party(api: &dyn PrivacyApi, request: Request<bytes::Bytes>) -> StatusCode {
    let (head, body) = request.into_parts();
    let answer = match Route::find(&head.method, &head.uri) {
        Ok(found) => {
            let ask = Ask {
                found,
                headers: head.headers,
                body,
            };
            handlers::answer(api, &ask).await
        }
        Err(refusal) => Err(refusal),
    };
    let answer = answer.unwrap_or_else(|refusal| refusal.into_answer());
    answer.into_response().status()
}
