//! AWS's error codes, and what follows from them. The codes are the same for all of its services, where a service has them.

use hyper::StatusCode;

/// The code and the message of an error document.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct ApiError {
    pub code: String,
    pub message: String,
}

/// EC2 has no instance of that id.
pub(super) const NO_INSTANCE: &str = "InvalidInstanceID.NotFound";

/// How to treat a failed attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RetryClass {
    /// It is an answer nevertheless: the item does not exist.
    Answered,
    /// Worth another attempt: throttling, a failure on AWS's side or on the network.
    Transient,
    /// Worth one more attempt, signed with AWS's clock (learnt from the failed answer) and new credentials.
    Stale,
    /// AWS refuses us, or does not know us.
    Denied,
    Final,
}

impl ApiError {
    /// AWS refuses us, or does not know us (EC2 API Reference, "Error codes"; Systems Manager API Reference, "Common Errors").
    pub fn is_denial(&self) -> bool {
        const DENIALS: [&str; 8] = [
            "UnauthorizedOperation",
            "AuthFailure",
            "SignatureDoesNotMatch",
            "InvalidClientTokenId",
            "UnrecognizedClientException",
            "InvalidSignatureException",
            // STS's, of a web identity's token.
            "InvalidIdentityToken",
            "IDPRejectedClaim",
        ];
        DENIALS.contains(&self.code.as_str()) || self.is_forbidden() || self.is_expired_token()
    }

    /// No policy allows it.
    pub(super) fn is_forbidden(&self) -> bool {
        ["UnauthorizedOperation", "AccessDenied", "AccessDeniedException"].contains(&self.code.as_str())
    }

    pub(super) fn outlook(&self, status: StatusCode) -> RetryClass {
        let code = self.code.as_str();
        // The second line are S3's, which it also sends with 200 and 400 (S3 API Reference, "Error responses").
        let is_busy = code.starts_with("Throttling")
            || ["RequestLimitExceeded", "SlowDown", "EC2ThrottledException"].contains(&code)
            || ["InternalError", "ServiceUnavailable", "RequestTimeout", "IDPCommunicationError"].contains(&code);
        match () {
            () if code == NO_INSTANCE => RetryClass::Answered,
            () if self.is_expired_token() || self.is_clock_skew() => RetryClass::Stale,
            () if self.is_denial() => RetryClass::Denied,
            () if is_busy || status.is_server_error() => RetryClass::Transient,
            () => RetryClass::Final,
        }
    }

    /// The remedy, to be appended to AWS's message.
    pub(super) fn hint(&self) -> &'static str {
        match self.code.as_str() {
            _ if self.is_expired_token() => "; the session token has expired, renew it",
            _ if self.is_clock_skew() => "; this host's clock is off by more than AWS allows, set it",
            "AuthFailure"
            | "SignatureDoesNotMatch"
            | "InvalidClientTokenId"
            | "UnrecognizedClientException"
            | "InvalidSignatureException" => "; check the access key and the secret, or use the instance's role",
            _ => "",
        }
    }

    fn is_expired_token(&self) -> bool {
        ["ExpiredToken", "ExpiredTokenException"].contains(&self.code.as_str())
    }

    /// The JSON services have one code for a wrong signature and for an expired one ("Signature expired: …", "Signature not yet
    /// current: …").
    fn is_clock_skew(&self) -> bool {
        let says = |text| self.message.starts_with(text);
        match self.code.as_str() {
            "RequestExpired" | "RequestTimeTooSkewed" => true,
            "InvalidSignatureException" => says("Signature expired") || says("Signature not yet current"),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_from_a_code() {
        let outlook = |code: &str, message: &str, status| {
            ApiError { code: code.to_owned(), message: message.to_owned() }.outlook(status)
        };
        let bad = StatusCode::BAD_REQUEST;
        assert_eq!(outlook("ExpiredTokenException", "", bad), RetryClass::Stale);
        assert_eq!(outlook("InvalidSignatureException", "Signature expired: 2026", bad), RetryClass::Stale);
        assert_eq!(
            outlook("InvalidSignatureException", "The request signature we calculated", bad),
            RetryClass::Denied
        );
        assert_eq!(outlook("AccessDeniedException", "", bad), RetryClass::Denied);
        assert_eq!(outlook("ThrottlingException", "", bad), RetryClass::Transient);
        assert_eq!(outlook("InternalServerError", "", StatusCode::INTERNAL_SERVER_ERROR), RetryClass::Transient);
        assert_eq!(outlook("ParameterNotFound", "", bad), RetryClass::Final);
    }
}
