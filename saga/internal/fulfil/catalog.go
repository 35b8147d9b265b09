package fulfil

import "github.com/surge-go/surge/cqrs"

// Messages is the catalog of everything in this package.
var Messages = cqrs.NewCatalog(
	cqrs.Event[Placed]{Name: "orders.placed", Key: func(m Placed) string { return m.OrderID }},
	cqrs.Event[CancelWanted]{Name: "orders.cancel-wanted", Key: func(m CancelWanted) string { return m.OrderID }},
	command("stock.reserve", func(m ReserveStock) string { return m.OrderID }),
	command("stock.release", func(m ReleaseStock) string { return m.OrderID }),
	command("stock.commit", func(m CommitStock) string { return m.OrderID }),
	command("stock.restock", func(m Restock) string { return m.OrderID }),
	command("payment.authorize", func(m AuthorizePayment) string { return m.OrderID }),
	command("payment.void", func(m VoidPayment) string { return m.OrderID }),
	command("payment.capture", func(m CapturePayment) string { return m.OrderID }),
	command("payment.refund", func(m RefundPayment) string { return m.OrderID }),
	command("shipment.create", func(m CreateShipment) string { return m.OrderID }),
	command("shipment.cancel", func(m CancelShipment) string { return m.OrderID }),
	command("shipment.stop", func(m StopShipment) string { return m.OrderID }),
	command("shipment.dispatch", func(m DispatchShipment) string { return m.OrderID }),
	command("orders.reject", func(m RejectOrder) string { return m.OrderID }),
	command("orders.confirm", func(m ConfirmOrder) string { return m.OrderID }),
	command("orders.close", func(m CloseOrder) string { return m.OrderID }),
)

func command[T any](name string, key func(T) string) cqrs.Type {
	return cqrs.Command[T]{Name: name, Key: key}
}
