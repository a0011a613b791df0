//! What one writes first, and what most services are: a broadcast channel, a task and a queue for each stream, and tonic's
//! codec, which encodes each event for each stream.

use anyhow::{Result, bail};
use futures_util::TryFutureExt;
use hawking::proto::{
    GetAccountStatusRequest, GetAccountStatusResponse, ListAccountsRequest, ListAccountsResponse,
    ListBindingTypesRequest, ListBindingTypesResponse, SubscribeRequest, SubscribeResponse,
    event_service_server::{EventService, EventServiceServer},
};
use tokio::{
    net::TcpListener,
    sync::{
        broadcast::{self, error::RecvError},
        mpsc,
    },
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

use super::ingest::Frames;

/// Events that the broadcast channel keeps.
const KEPT: usize = 4096;

/// Events that wait for one stream.
const QUEUE: usize = 128;

struct Naive {
    events: broadcast::Sender<SubscribeResponse>,
}

#[tonic::async_trait]
impl EventService for Naive {
    type SubscribeStream = ReceiverStream<Result<SubscribeResponse, Status>>;

    async fn subscribe(
        &self,
        _: Request<SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let mut events = self.events.subscribe();
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            loop {
                let item = match events.recv().await {
                    Ok(event) => Ok(event),
                    Err(RecvError::Lagged(lost)) => Err(Status::data_loss(format!("{lost} events are lost"))),
                    Err(RecvError::Closed) => return,
                };
                let last = item.is_err();
                if sender.send(item).await.is_err() || last {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn get_account_status(
        &self,
        _: Request<GetAccountStatusRequest>,
    ) -> Result<Response<GetAccountStatusResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn list_accounts(
        &self,
        _: Request<ListAccountsRequest>,
    ) -> Result<Response<ListAccountsResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn list_binding_types(
        &self,
        _: Request<ListBindingTypesRequest>,
    ) -> Result<Response<ListBindingTypesResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }
}

pub async fn serve(listener: TcpListener, mut frames: Frames) -> Result<()> {
    let (events, _) = broadcast::channel(KEPT);
    let sender = events.clone();
    let ingest = async move {
        loop {
            frames
                .batch(|response| {
                    // Nobody may be listening.
                    let _ = sender.send(response);
                })
                .await?;
        }
    };
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = tonic::transport::Server::builder()
        .add_service(EventServiceServer::new(Naive { events }))
        .serve_with_incoming(incoming)
        .map_err(anyhow::Error::from);
    tokio::select! {
        ended = tokio::spawn(ingest) => ended?,
        ended = server => { ended?; bail!("the server has ended") }
    }
}
