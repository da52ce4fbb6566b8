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

// Proxies are networks of reverse proxies. This file is the only place where their
// headers are read: X-Forwarded-For, -Host, -Proto and -Prefix. Other peers may send
// them too, and are not believed. RFC 7239's Forwarded is ignored: two headers that
// say different things would need a rule which one lies.
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
		return network, fmt.Errorf("is wider than /%d, its clients could pretend any address: name only proxies",
			widest)
	}
	return network.Masked(), nil
}

// Contains tells whether an address is a proxy's.
func (p Proxies) Contains(a netip.Addr) bool {
	return slices.ContainsFunc(p, func(n netip.Prefix) bool { return n.Contains(a) })
}

// seen is what is known of a request from its connection and its proxies.
type seen struct {
	client netip.Addr
	https  bool   // how the client reached the outermost proxy, or this listener
	prefix string // of the path, "/signup-saga", which a proxy has removed
}

type seenKey struct{}

// ClientAddress returns whose request it is: the peer, or the client that trusted
// proxies tell of. It is unmapped and has no zone.
func ClientAddress(r *http.Request) netip.Addr {
	if s, ok := r.Context().Value(seenKey{}).(seen); ok {
		return s.client
	}
	return peerAddress(r)
}

// PathPrefix returns what a trusted proxy has removed from the beginning of the path,
// "/signup-saga"; "" for nothing.
func PathPrefix(r *http.Request) string {
	s, _ := r.Context().Value(seenKey{}).(seen)
	return s.prefix
}

// overHTTPS tells whether the client sent the request over TLS.
func overHTTPS(r *http.Request) bool {
	s, _ := r.Context().Value(seenKey{}).(seen)
	return s.https
}

func peerAddress(r *http.Request) netip.Addr {
	peer, _ := netip.ParseAddrPort(r.RemoteAddr)
	return peer.Addr().Unmap().WithZone("")
}

// What is wrong with a proxy's headers.
const (
	proxyUnknown = "X-Forwarded-For from a peer outside TRUSTED_PROXIES is ignored; " +
		"if your proxy sent it, name the proxy there, or its clients share one limit"
	proxySilent = "a trusted proxy sent no X-Forwarded-For; " +
		"requests without it count as the proxy's own and share one limit"
	proxyGarble = "a trusted proxy sent an X-Forwarded-For that cannot be read; its clients share one limit; " +
		"have it send their addresses"
)

// handler passes requests on with what the proxies tell of them. It logs each kind of
// trouble once: it is the same with every request.
func (p Proxies) handler(log *slog.Logger, next http.Handler) http.Handler {
	var logged sync.Map
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, host, trouble := p.read(r)
		if trouble != "" {
			if _, before := logged.LoadOrStore(trouble, true); !before {
				log.Warn(trouble)
			}
		}
		r = r.WithContext(context.WithValue(r.Context(), seenKey{}, s))
		r.Host = host
		next.ServeHTTP(w, r)
	})
}

// read returns what is known of a request, the host that the client asked, and what is
// wrong with the headers.
func (p Proxies) read(r *http.Request) (s seen, host, trouble string) {
	peer, addresses := peerAddress(r), r.Header["X-Forwarded-For"]
	s, host = seen{client: peer, https: r.TLS != nil}, r.Host
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

// client returns the last address, from the right, that is no proxy's. Each proxy has
// added on the right whom it was asked by; what is left of the first address that is
// not trusted may be invented. A proxy that adds something else is taken for the client.
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

// parseHop reads an address, which some proxies write with a port or brackets.
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

// last returns the last element of a list header, which is the nearest proxy's.
func last(r *http.Request, name string) string {
	elements := strings.Split(strings.Join(r.Header[name], ","), ",")
	return strings.TrimSpace(elements[len(elements)-1])
}
