package mailbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/emersion/go-smtp"
	"golang.org/x/sync/errgroup"
)

// Run accepts mails on smtpAddr and shows them on httpAddr until ctx is done. It calls ready with the URL that
// shows them once both addresses are served.
func Run(ctx context.Context, smtpAddr, httpAddr string, ready func(url string)) error {
	mails, err := net.Listen("tcp", smtpAddr)
	if err != nil {
		return fmt.Errorf("listen for mails: %w", err)
	}
	views, err := net.Listen("tcp", httpAddr)
	if err != nil {
		return errors.Join(fmt.Errorf("listen for viewers: %w", err), mails.Close())
	}
	box := &Mailbox{}
	in := NewSMTPServer(box)
	out := &http.Server{Handler: box, ReadHeaderTimeout: 10 * time.Second}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return unless(smtp.ErrServerClosed, in.Serve(mails)) })
	group.Go(func() error { return unless(http.ErrServerClosed, out.Serve(views)) })
	group.Go(func() error {
		<-ctx.Done()
		return errors.Join(in.Close(), out.Close())
	})
	ready("http://" + views.Addr().String())
	return group.Wait()
}

// unless returns err, or nil if it is the error with which a server reports that it was closed on purpose.
func unless(closed, err error) error {
	if errors.Is(err, closed) {
		return nil
	}
	return err
}
