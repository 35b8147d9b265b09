package contracts

import "github.com/surge-go/surge/cqrs"

// ShipmentCreated says that an order's parcels can be sent: the answer to [CreateShipment].
type ShipmentCreated struct {
	OrderID string `json:"order_id"`
}

// ShipmentCancelled says that the parcels stay, or come back. It is also the answer to [RecallShipment].
type ShipmentCancelled struct {
	OrderID string `json:"order_id"`
}

// ShipmentDispatched says that the parcels are on their way. It is also the answer to [DispatchShipment].
type ShipmentDispatched struct {
	OrderID string `json:"order_id"`
}

// CreateShipment prepares an order's parcels.
type CreateShipment struct {
	cqrs.Returns[ShipmentCreated] `json:"-"`

	OrderID  string `json:"order_id"`
	Customer string `json:"customer"`
	Units    int    `json:"units"`
}

// CancelShipment undoes [CreateShipment].
type CancelShipment struct {
	OrderID string `json:"order_id"`
}

// DispatchShipment hands the parcels over.
type DispatchShipment struct {
	cqrs.Returns[ShipmentDispatched] `json:"-"`

	OrderID string `json:"order_id"`
}

// RecallShipment stops the parcels of a cancelled order, or has them sent back.
type RecallShipment struct {
	cqrs.Returns[ShipmentCancelled] `json:"-"`

	OrderID string `json:"order_id"`
}

// Shipping lists the shipping service's messages.
func Shipping() []cqrs.Type {
	return []cqrs.Type{
		event("shipping.cancelled", func(e ShipmentCancelled) string { return e.OrderID }),
		event("shipping.dispatched", func(e ShipmentDispatched) string { return e.OrderID }),
		command("shipping.create", func(c CreateShipment) string { return c.OrderID }),
		command("shipping.cancel", func(c CancelShipment) string { return c.OrderID }),
		command("shipping.dispatch", func(c DispatchShipment) string { return c.OrderID }),
		command("shipping.recall", func(c RecallShipment) string { return c.OrderID }),
	}
}
