package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// Proxies are the networks of trusted reverse proxies. This file is the only place that reads their headers:
// X-Forwarded-For, -Host, -Proto and -Prefix. If another peer sends them, they are ignored. RFC 7239's
// Forwarded is always ignored: if the two headers disagreed, we would need a rule to decide which one lies.
type Proxies []netip.Prefix

// The widest networks that can be trusted: 10.0.0.0/8 and fc00::/7, which are private.
const (
	widestIPv4 = 8
	widestIPv6 = 7
)

// ParseProxies reads addresses and networks, as in 10.0.0.0/8 and 192.0.2.1.
func ParseProxies(entries []string) (Proxies, error) {
	var proxies Proxies
	var errs []error
	for i, entry := range entries {
		network, err := parseNetwork(strings.TrimSpace(entry))
		if err != nil {
			errs = append(errs, fmt.Errorf("entry %d: %w", i+1, err))
			continue
		}
		proxies = append(proxies, network)
	}
	return proxies, errors.Join(errs...)
}

func parseNetwork(entry string) (netip.Prefix, error) {
	network, err := netip.ParsePrefix(entry)
	if address, notOne := netip.ParseAddr(entry); notOne == nil {
		address = address.Unmap().WithZone("")
		network, err = netip.PrefixFrom(address, address.BitLen()), nil
	}
	if err != nil {
		return network, errors.New("must be an address or a network, as in 192.0.2.1 or 10.0.0.0/8")
	}
	if network.Addr().Is4In6() && network.Bits() >= 96 {
		network = netip.PrefixFrom(network.Addr().Unmap(), network.Bits()-96)
	}
	widest := widestIPv6
	if network.Addr().Is4() {
		widest = widestIPv4
	}
	if network.Bits() < widest {
		return network, fmt.Errorf("is wider than /%d, its clients could forge any address: list only proxies",
			widest)
	}
	return network.Masked(), nil
}

// Contains reports whether an address is a proxy's.
func (p Proxies) Contains(a netip.Addr) bool {
	return slices.ContainsFunc(p, func(n netip.Prefix) bool { return n.Contains(a) })
}

// forwarded is what the connection and the proxies say about a request.
type forwarded struct {
	client netip.Addr
	https  bool   // the client used TLS to the outermost proxy, or to this listener
	prefix string // what a proxy has removed from the path: "/signup-saga"
}

type forwardedKey struct{}

// ClientAddress returns the address that a request comes from: the peer's, or the client's that trusted proxies
// report. It is unmapped and has no zone.
func ClientAddress(r *http.Request) netip.Addr {
	if s, ok := r.Context().Value(forwardedKey{}).(forwarded); ok {
		return s.client
	}
	return peerAddress(r)
}

// PathPrefix returns what a trusted proxy has removed from the beginning of the path, such as "/signup-saga",
// or "".
func PathPrefix(r *http.Request) string {
	s, _ := r.Context().Value(forwardedKey{}).(forwarded)
	return s.prefix
}

// overHTTPS reports whether the client sent the request over TLS.
func overHTTPS(r *http.Request) bool {
	s, _ := r.Context().Value(forwardedKey{}).(forwarded)
	return s.https
}

func peerAddress(r *http.Request) netip.Addr {
	peer, _ := netip.ParseAddrPort(r.RemoteAddr)
	return peer.Addr().Unmap().WithZone("")
}

// Problems with a proxy's headers.
const (
	proxyUnknown = "X-Forwarded-For from a peer outside TRUSTED_PROXIES is ignored; " +
		"if your proxy sent it, name the proxy there, or its clients share one limit"
	proxySilent = "a trusted proxy sent no X-Forwarded-For; " +
		"requests without it count as the proxy's own and share one limit"
	proxyGarble = "a trusted proxy sent an X-Forwarded-For that cannot be read; its clients share one limit; " +
		"have it send their addresses"
)

// handler passes requests on, together with what the proxies say about them. It logs each kind of trouble once,
// because it recurs with every request.
func (p Proxies) handler(log *slog.Logger, next http.Handler) http.Handler {
	var logged sync.Map
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, host, trouble := p.read(r)
		if trouble != "" {
			if _, before := logged.LoadOrStore(trouble, true); !before {
				log.Warn(trouble)
			}
		}
		r = r.WithContext(context.WithValue(r.Context(), forwardedKey{}, s))
		r.Host = host
		next.ServeHTTP(w, r)
	})
}

// read returns what is known about a request, the host that the client asked for, and what is wrong with the
// headers.
func (p Proxies) read(r *http.Request) (s forwarded, host, trouble string) {
	peer, addresses := peerAddress(r), r.Header["X-Forwarded-For"]
	s, host = forwarded{client: peer, https: r.TLS != nil}, r.Host
	if !p.Contains(peer) {
		if len(addresses) > 0 {
			trouble = proxyUnknown
		}
		return s, host, trouble
	}
	s.client, trouble = p.client(peer, addresses)
	if scheme := last(r, "X-Forwarded-Proto"); strings.EqualFold(scheme, "https") || strings.EqualFold(scheme, "http") {
		s.https = strings.EqualFold(scheme, "https")
	}
	if name := last(r, "X-Forwarded-Host"); hostName.MatchString(name) {
		host = canonical(name, s.https)
	}
	prefix := strings.TrimSuffix(last(r, "X-Forwarded-Prefix"), "/")
	if pathPrefix.MatchString(prefix) && path.Clean(prefix) == prefix {
		s.prefix = prefix
	}
	return s, host, trouble
}

var (
	hostName   = regexp.MustCompile(`^([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$`)
	pathPrefix = regexp.MustCompile(`^(/[A-Za-z0-9._~-]+){1,8}$`)
)

// canonical writes a host as browsers do in Origin: in lower case, and without the port
// that the scheme implies.
func canonical(host string, https bool) string {
	implied := ":80"
	if https {
		implied = ":443"
	}
	return strings.TrimSuffix(strings.ToLower(host), implied)
}

// client returns the first address from the right that is not a proxy's. Each proxy appends the address of its
// own peer, so everything left of the first untrusted address may be forged. If a proxy appends something else,
// the proxy itself counts as the client.
func (p Proxies) client(peer netip.Addr, headers []string) (client netip.Addr, trouble string) {
	client, trouble = peer, proxySilent
	for _, entry := range slices.Backward(strings.Split(strings.Join(headers, ","), ",")) {
		entry = strings.TrimSpace(entry)
		if entry == "" {
			continue // RFC 9110, 5.6.1.2: empty elements do not count
		}
		hop, ok := parseHop(entry)
		if !ok {
			return client, proxyGarble
		}
		client, trouble = hop, ""
		if !p.Contains(hop) {
			break
		}
	}
	return client, trouble
}

// parseHop parses an address, which some proxies write with a port or brackets.
func parseHop(entry string) (netip.Addr, bool) {
	hop, err := netip.ParseAddr(entry)
	if inner, ok := strings.CutPrefix(entry, "["); err != nil && ok && strings.HasSuffix(inner, "]") {
		hop, err = netip.ParseAddr(strings.TrimSuffix(inner, "]"))
	}
	if err != nil {
		var withPort netip.AddrPort
		withPort, err = netip.ParseAddrPort(entry)
		hop = withPort.Addr()
	}
	return hop.Unmap().WithZone(""), err == nil
}

// last returns the last element of a list header: the nearest proxy's.
func last(r *http.Request, name string) string {
	elements := strings.Split(strings.Join(r.Header[name], ","), ",")
	return strings.TrimSpace(elements[len(elements)-1])
}
