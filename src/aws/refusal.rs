//! AWS's own word for a refusal, and what follows from it. The codes are the same for all of its services, as far as they go.

use hyper::StatusCode;

/// The code and the message of an error document.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct ApiError {
    pub code: String,
    pub message: String,
}

/// What is to be made of an attempt that came to nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RetryClass {
    /// It is an answer all the same: no such thing.
    Answered,
    /// Worth another attempt: throttling, trouble on AWS's side or on the way there.
    Transient,
    /// Worth one more, signed by AWS's clock (learnt from the failed answer) and with new credentials.
    Stale,
    /// AWS knows us and says no, or doesn't know us.
    Denied,
    Final,
}

impl ApiError {
    /// AWS knows us and says no, or doesn't know us (EC2 API Reference, "Error codes"; Systems Manager API Reference, "Common
    /// Errors").
    pub fn is_denial(&self) -> bool {
        const DENIALS: [&str; 6] = [
            "UnauthorizedOperation",
            "AuthFailure",
            "SignatureDoesNotMatch",
            "InvalidClientTokenId",
            "UnrecognizedClientException",
            "InvalidSignatureException",
        ];
        DENIALS.contains(&self.code.as_str()) || self.is_forbidden() || self.is_expired_token()
    }

    /// No policy allows it.
    pub(super) fn is_forbidden(&self) -> bool {
        ["UnauthorizedOperation", "AccessDenied", "AccessDeniedException"].contains(&self.code.as_str())
    }

    pub(super) fn outlook(&self, status: StatusCode) -> RetryClass {
        let code = self.code.as_str();
        let is_busy = code.starts_with("Throttling")
            || ["RequestLimitExceeded", "SlowDown", "EC2ThrottledException"].contains(&code);
        match () {
            () if self.is_expired_token() || self.is_clock_skew() => RetryClass::Stale,
            () if self.is_denial() => RetryClass::Denied,
            () if is_busy || status.is_server_error() => RetryClass::Transient,
            () => RetryClass::Final,
        }
    }

    /// The way out, to be appended to what AWS says.
    pub(super) fn hint(&self) -> &'static str {
        match self.code.as_str() {
            _ if self.is_expired_token() => "; the session token has run out, renew it",
            _ if self.is_clock_skew() => "; the clock is off by more than AWS allows, set it right",
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

    /// The JSON services have one code for a wrong signature and for an old one ("Signature expired: …", "Signature not yet
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
