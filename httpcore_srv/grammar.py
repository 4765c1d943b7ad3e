"""The grammar of a request, as patterns, with the ABNF line above each.

Sources: RFC 9110 (semantics), RFC 9112 (HTTP/1.1), RFC 3986 (URI), RFC 5234 (ABNF core).
Where a pattern is narrower or wider than its ABNF, the comment says why.

Every repetition is possessive (`*+`, `++`) unless what follows it cannot start with a
character that it takes. A possessive repetition never gives anything back, so no input can
make a match take more than one pass: waitress had a CVE for a field pattern that
backtracked.

Patterns work on text decoded as latin-1, in which one character is one octet, except for
field lines and the chunked coding, which are matched as they were received.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

# tchar = "!" / "#" / "$" / "%" / "&" / "'" / "*" / "+" / "-" / "." / "^" / "_" / "`" / "|" / "~"
#         / DIGIT / ALPHA                                                  RFC 9110, 5.6.2
# token = 1*tchar
_TCHAR: Final = r"!#$%&'*+\-.^_`|~0-9A-Za-z"
_TOKEN: Final = rf"[{_TCHAR}]++"
TOKEN_OCTETS: Final = frozenset(i for i in range(128) if re.match(_TOKEN, chr(i)))

# field-line    = field-name ":" OWS field-value OWS                       RFC 9112, 5
# field-name    = token
# field-value   = *field-content                                           RFC 9110, 5.5
# field-content = field-vchar [ 1*( SP / HTAB / field-vchar ) field-vchar ]
# field-vchar   = VCHAR / obs-text
# obs-text      = %x80-FF
#
# Narrower: no obs-fold (RFC 9112, 5.2 lets a server answer 400), and no control character at
# all, where the RFC demands a refusal only for CR, LF and NUL.
# Wider here, narrowed by the caller: the group of the value still has its trailing OWS,
# because leaving it out would need a repetition that backtracks.
#
# In bytes, for what is looked up is bytes, and only what is not found there is matched.
_FIELD_VALUE: Final = r"[\t\x20-\x7e\x80-\xff]*+"
_FIELD: Final = rf"({_TOKEN}):[ \t]*+({_FIELD_VALUE})".encode("latin-1")
FIELD_LINE: Final = re.compile(_FIELD)  # without its CRLF
FIELD_VALUE: Final = re.compile(_FIELD_VALUE.encode("latin-1"))  # with OWS on either side

# The same for one line of a trailer section, in the receive buffer.
TRAILER_LINE: Final = re.compile(_FIELD + rb"\r\n")

# absolute-path = 1*( "/" segment )                                        RFC 9110, 4.1
# segment       = *pchar                                                   RFC 3986, 3.3
# pchar         = unreserved / pct-encoded / sub-delims / ":" / "@"
# query         = *( pchar / "/" / "?" )                                   RFC 3986, 3.4
#
# Wider: browsers follow the WHATWG URL standard, which leaves `[ ] ^ { | }` and the back-tick
# raw in both parts, and the backslash in queries; frameworks' `?filter[name]=x` is everyday
# traffic. None of them delimits anything in a request line or means anything to us, so we
# hand them on. What stays out: controls, SP, DEL, octets above 7F, `"`, `<`, `>`, and `#`,
# which would start a fragment; in paths the backslash too, which some take for a slash.
# Wider: a `%` in a query need not be followed by two digits. Queries are handed on as they
# are (PEP 3333), and typing `?q=100%` into a browser sends just that. In a path, which we do
# decode, it is checked (`percent_decode`).
_HOST_CHAR: Final = r"A-Za-z0-9\-._~!$&'()*+;="  # unreserved / sub-delims, but for the comma
_PATH_CHAR: Final = rf"{_HOST_CHAR},%:@/\[\]^`{{|}}"
_PATH_QUERY: Final = rf"(/[{_PATH_CHAR}]*+)(?:\?([{_PATH_CHAR}?\\]*+))?+"

# request-line = method SP request-target SP HTTP-version                  RFC 9112, 3
# origin-form  = absolute-path [ "?" query ]                               RFC 9112, 3.2.1
# HTTP-version = HTTP-name "/" DIGIT "." DIGIT                             RFC 9112, 2.3
#
# Narrower: only versions 1.0 and 1.1, and methods of a sensible length; this is the line that
# nearly every request has. All others go through REQUEST_LINE, which finds out what is special
# or wrong.
MAX_METHOD_LENGTH: Final = 32  # the longest registered one, UPDATEREDIRECTREF, has 17
ORIGIN_REQUEST_LINE: Final = re.compile(
    rf"([{_TCHAR}]{{1,{MAX_METHOD_LENGTH}}}+) ({_PATH_QUERY}) HTTP/1\.([01])"
)

# The outline of any request line, before the target is looked at. Exactly one SP at either
# place: RFC 9112, 3 allows a lenient reading, and every lenient reading is one that a proxy in
# front may not share.
REQUEST_LINE: Final = re.compile(rf"({_TOKEN}) ([!-~]++) HTTP/([0-9])\.([0-9])")

ORIGIN_FORM: Final = re.compile(_PATH_QUERY)

# uri-host    = IP-literal / IPv4address / reg-name                        RFC 3986, 3.2.2
# reg-name    = *( unreserved / pct-encoded / sub-delims )
# IP-literal  = "[" ( IPv6address / IPvFuture  ) "]"
# IPvFuture   = "v" 1*HEXDIG "." 1*( unreserved / sub-delims / ":" )
# port        = *DIGIT                                                     RFC 3986, 3.2.3
# Host        = uri-host [ ":" port ]                                      RFC 9110, 7.2
#
# Narrower: not empty (RFC 9110, 4.2.1 wants http URIs without a host rejected), no more than
# 255 characters (a DNS name has 253) and five digits of port. No comma: no name has one, but
# two Host fields that some proxy has joined do.
# Wider: of an IPv6address only the alphabet is given here; `is_host` asks `ipaddress`
# about the rest. No zone identifiers (RFC 9110 does not have them).
_URI_HOST: Final = (
    rf"(?:(?:[{_HOST_CHAR}]|%[0-9A-Fa-f]{{2}}){{1,255}}+"
    r"|\[[0-9A-Fa-f:.]{2,45}+\]"
    rf"|\[[vV][0-9A-Fa-f]{{1,8}}+\.[{_HOST_CHAR}:]{{1,64}}+\])"
)
_HOST: Final = rf"{_URI_HOST}(?::[0-9]{{0,5}}+)?+"
_HOST_FIELD: Final = re.compile(_HOST)
_IPV6_LITERAL: Final = re.compile(r"\[([0-9A-Fa-f:.]++)\]")

# absolute-form = absolute-URI                                             RFC 9112, 3.2.2
# absolute-URI  = scheme ":" hier-part [ "?" query ]                       RFC 3986, 4.3
# hier-part     = "//" authority path-abempty / ...
#
# Narrower: only http and https; we serve no other scheme. No userinfo before the host (RFC 9110,
# 4.2.4: treat it as an error, for it is used to disguise authority).
ABSOLUTE_FORM: Final = re.compile(
    rf"[Hh][Tt][Tt][Pp][Ss]?+://({_HOST})(?:{_PATH_QUERY}|\?([{_PATH_CHAR}?\\]*+))?+"
)

# authority-form = uri-host ":" port                                       RFC 9112, 3.2.3
#
# Narrower: the port is not empty (RFC 9110, 9.3.6: there is no default port to connect to).
AUTHORITY_FORM: Final = re.compile(rf"{_URI_HOST}:[0-9]{{1,5}}+")

# Content-Length = 1*DIGIT                                                 RFC 9110, 8.6
#
# Narrower: 19 digits hold every length below 2^63; more is an attempt to overflow someone.
# `[0-9]`, not `\d`, and never int() alone: that takes `+1`, `1_0`, and digits of other scripts.
CONTENT_LENGTH: Final = re.compile(r"[0-9]{1,19}")

# Transfer-Encoding = #transfer-coding                                     RFC 9112, 6.1
# transfer-coding   = token *( OWS ";" OWS transfer-parameter )            RFC 9112, 7
#
# Narrower: no parameters (chunked has none) and no empty list elements, which RFC 9110, 5.6.1.2
# asks to tolerate in general: here leniency is what request smuggling lives on.
TRANSFER_CODINGS: Final = re.compile(rf"{_TOKEN}(?:[ \t]*+,[ \t]*+{_TOKEN})*+")

# chunk          = chunk-size [ chunk-ext ] CRLF chunk-data CRLF           RFC 9112, 7.1
# chunk-size     = 1*HEXDIG
# chunk-ext      = *( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] )
# chunk-ext-val  = token / quoted-string
# quoted-string  = DQUOTE *( qdtext / quoted-pair ) DQUOTE                 RFC 9110, 5.6.4
#
# Narrower: at most 16 digits of size; no control characters but HTAB in a quoted-string (qdtext
# has none, so this needs no extra word).
_QUOTED: Final = r'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*+"'
_EXTENSION: Final = rf"[ \t]*+;[ \t]*+{_TOKEN}(?:[ \t]*+=[ \t]*+(?:{_TOKEN}|{_QUOTED}))?+"
CHUNK_LINE: Final = re.compile(rf"([0-9A-Fa-f]{{1,16}}+)((?:{_EXTENSION})*+)\r\n".encode("latin-1"))


def is_host(text: str) -> bool:
    """Tell whether `text` is host[:port] as above, with a sound address in any brackets."""
    if not _HOST_FIELD.fullmatch(text):
        return False
    if literal := _IPV6_LITERAL.match(text):
        try:
            ipaddress.IPv6Address(literal[1])
        except ValueError:
            return False
    return True


# pct-encoded = "%" HEXDIG HEXDIG                                          RFC 3986, 2.1
_HEXDIGITS: Final = "0123456789abcdefABCDEF"
_OCTET_OF: Final = {
    high + low: chr(int(high + low, 16)) for high in _HEXDIGITS for low in _HEXDIGITS
}


def percent_decode(path: str) -> str | None:
    """Replace each `%XX` by the octet it stands for, once; the result is latin-1 text.

    None if a `%` is not followed by two hexadecimal digits (RFC 3986 section 2.1), or if it
    hides a NUL, which no resource can have in its name and which ends strings in C libraries
    behind the application.
    """
    head, *rest = path.split("%")
    try:
        decoded = head + "".join([_OCTET_OF[part[:2]] + part[2:] for part in rest])
    except KeyError:
        return None
    return None if "\0" in decoded else decoded
